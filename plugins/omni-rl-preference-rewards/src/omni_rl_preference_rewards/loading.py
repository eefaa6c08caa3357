"""Loads weights at the first use, and only once for all rewards of a process. Missing weights are an error."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError

from omni_rl.errors import ModelError

T = TypeVar("T")

_loaded: WeakValueDictionary[tuple[Hashable, ...], Any] = WeakValueDictionary()
_lock = Lock()


def shared(build: Callable[..., T], *arguments: Hashable) -> T:
    """``build(*arguments)``, or the object of an earlier call with the same arguments while it is still in use.

    A run builds its rewards twice, for training and for validation, and two rewards may stand on one CLIP.
    """
    key = (build, *arguments)
    with _lock:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = build(*arguments)
        return cast("T", found)


def load_model(kind: Any, folder: Path, device: torch.device) -> Any:
    """A transformers model of class ``kind`` from safetensors, in fp32, eval mode, without gradients.

    Raises:
        ModelError: the weights are damaged, or some are missing or of another shape (transformers itself would go on
            with random ones).
    """
    options = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        model, report = kind.from_pretrained(folder, **options)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: another shape
        raise ModelError(f"the weights in {folder} cannot be loaded: {error}", "download them again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        what = f"the weights in {folder} are not a whole {kind.__name__}: {missing[0]} and {len(missing) - 1} more"
        raise ModelError(f"{what} are missing", "download it again, or convert it with this version of the package")
    return model.requires_grad_(False).eval().to(device)
