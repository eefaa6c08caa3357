"""Refuses pipelines of which weights are missing in the files.

diffusers leaves such parameters on the meta device, and transformers draws them at random; both only print a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from omni_rl.errors import ModelError

_UNUSED = ("lm_head.",)
"""Parameters that no pipeline computes embeddings with; some folders leave them out to save space."""


@contextmanager
def required() -> Iterator[None]:
    """Within the context, loading a model of transformers without all of its weights raises ModelError."""
    loader: Any = PreTrainedModel.__dict__["from_pretrained"]

    def load(cls: type, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("output_loading_info"):
            return loader.__func__(cls, *args, **kwargs)
        model, found = loader.__func__(cls, *args, output_loading_info=True, **kwargs)
        _refuse(cls.__name__, (name for name in found["missing_keys"] if not str(name).startswith(_UNUSED)))
        return model

    PreTrainedModel.from_pretrained = classmethod(load)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = loader


def check(modules: Iterable[nn.Module]) -> None:
    """Check that every parameter of loaded modules has a value.

    Raises:
        ModelError: names those without.
    """
    for module in modules:
        _refuse(type(module).__name__, (name for name, each in module.named_parameters() if each.is_meta))


def _refuse(model: str, missing: Iterable[str]) -> None:
    names = sorted(map(str, missing))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        what = f"the weight files of {model} do not contain {', '.join(name[:80] for name in names[:3])}{more}"
        raise ModelError(what, "download the model again: it is incomplete, or its configuration is of another model")
