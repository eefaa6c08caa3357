"""Encode prompts by the pipeline's own ``encode_prompt``, as rows that a trajectory keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.types import Tensors
from omni_rl.errors import ModelError
from omni_rl.model import tokenizer_calls
from omni_rl.universal import capture, media_conditioning
from omni_rl.universal.capture import NEEDS_PLUGIN
from omni_rl.universal.embedding_rows import Forms, find_forms, text_rows, to_rows
from omni_rl.universal.prompt_outputs import named_outputs, text_arguments

TWO_TEXTS = ["a", "a " * 36]
"""Of different length in every tokenizer, and in every bucket of lengths."""


class _FormsKey(NamedTuple):
    negative: bool
    media: tuple[str, ...]
    call: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, negative: bool, call: Mapping[str, Any]) -> _FormsKey:
        media = tuple(sorted(media_conditioning.among(call)))
        return cls(negative, media, frozen(media_conditioning.without(call)))


_FORMS = Cache[_FormsKey, Forms]()


def encode_texts(model: LoadedModel, texts: Mapping[str, Sequence[str]], call: Mapping[str, Any]) -> Tensors:
    """(B, ...) tensors by the names under which ``__call__`` takes them back.

    A pipeline without an ``encode_prompt``, whose denoiser reads tokens itself, is given the texts in every call.

    Args:
        texts: see :func:`omni_rl.universal.prompt_outputs.text_arguments`.

    Raises:
        ModelError: the outputs of ``encode_prompt`` are not rows of the prompts.
    """
    if not hasattr(model.pipe, "encode_prompt"):
        return {n: v for argument, values in texts.items() for n, v in text_rows(argument, values).items()}
    rows = len(texts["prompt"])
    known = forms_of(model, "negative_prompt" in texts, call)
    parts = [slice(i, i + 1) for i in range(rows)] if known.one_by_one else [slice(0, rows)]
    outputs = [
        _present(named_outputs(model, {n: list(t[part]) for n, t in texts.items()}, call), known) for part in parts
    ]
    embeddings: Tensors = {}
    for name in outputs[0]:
        kind = known.kinds.get(name, "rows")
        if kind == "fixed":
            what = f"{model.architecture}.encode_prompt gives a {name} that is the same for any number of prompts"
            raise ModelError(what, NEEDS_PLUGIN)
        embeddings |= to_rows(name, [output[name] for output in outputs], kind)
    return _checked_rows(model, embeddings, rows)


def _present(outputs: Mapping[str, Any], known: Forms) -> dict[str, Any]:
    """Without outputs that are None or empty, such as negative embeddings without guidance.

    A mask that is None beside embeddings of one width means that all tokens count.
    """
    present = {n: v for n, v in outputs.items() if isinstance(v, torch.Tensor) or (isinstance(v, list) and v)}
    for mask in [name for name, value in outputs.items() if name.endswith("_mask") and value is None]:
        name = mask.replace("_attention_mask", "_embeds").removesuffix("_mask")
        embeds = present.get(name)
        if isinstance(embeds, torch.Tensor) and known.kinds.get(name, "rows") == known.kinds.get(mask, "rows"):
            dtype = known.masks.get(mask, torch.long)
            present[mask] = torch.ones((len(embeds), embeds.shape[-2]), dtype=dtype, device=embeds.device)
    return present


def _checked_rows(model: LoadedModel, embeddings: Tensors, rows: int) -> Tensors:
    wrong = {n: tuple(v.shape) for n, v in embeddings.items() if v.shape[:1] != (rows,)}
    if not embeddings:
        raise _nothing_to_take_back(model)
    if wrong:
        raise ModelError(
            f"{model.architecture}.encode_prompt gives embeddings of unexpected shape {wrong}", NEEDS_PLUGIN
        )
    return embeddings


def forms_of(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> Forms:
    """How the outputs of ``encode_prompt`` hold their rows, found from one text and from two.

    Prompts with media are encoded one by one, and some pipelines take no two: then the outputs are rows, and masks say
    where they end.
    """
    return _FORMS.get(model, _FormsKey.of(negative, call), lambda: _find_forms(model, negative, call))


def _find_forms(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> Forms:
    with capture.silent(model.pipe), tokenizer_calls.paused():  # the long text may well be truncated
        one = _outputs_of(model, TWO_TEXTS[:1], negative, call)
        if not one:  # then it does not matter what happens with two
            raise _nothing_to_take_back(model)
        try:
            return find_forms(one, _outputs_of(model, TWO_TEXTS, negative, call))
        except ModelError as error:
            if media_conditioning.among(call):
                return Forms({})
            what = f"{model.architecture} encodes one prompt, and does not take two in one call: {error.what}"
            raise ModelError(what, NEEDS_PLUGIN) from error


def _outputs_of(model: LoadedModel, texts: Sequence[str], negative: bool, call: Mapping[str, Any]) -> dict[str, Any]:
    return named_outputs(model, text_arguments(texts, texts if negative else None), call)


def _nothing_to_take_back(model: LoadedModel) -> ModelError:
    what = f"{model.architecture}.encode_prompt gives no embeddings that its __call__ takes back"
    return ModelError(what, NEEDS_PLUGIN)


def grows(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> bool:
    """Whether a prompt's embeddings are as wide as the longest prompt of the call."""
    return hasattr(model.pipe, "encode_prompt") and bool(forms_of(model, negative, call).growing)


def encode_by_width(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> None:
    """From now on encode each prompt alone, as wide as it is."""
    _FORMS.of(model)[_FormsKey.of(negative, call)] = forms_of(model, negative, call).by_width()
