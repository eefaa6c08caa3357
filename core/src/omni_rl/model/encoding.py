"""Encode each prompt once per submission to an engine, however many samples it has.

All prompts of a submission are padded to one width, so that a sample is replayed at the width at which it was drawn,
whatever micro-batch it is in. Embeddings are kept for one submission only, although text encoders are frozen: they
would fill the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Tensors, lossless
from omni_rl.data.media_files import load
from omni_rl.errors import DataError, ModelError
from omni_rl.model import tokenizer_calls
from omni_rl.model.boundary import foreign
from omni_rl.model.tokenizer_calls import TokenizerCall


class _PromptKey(NamedTuple):
    prompt: str
    negative: str | None
    call: tuple[tuple[str, str], ...]
    media: str

    @classmethod
    def of(cls, request: Request) -> _PromptKey:
        media = json.dumps(request.media, sort_keys=True) if request.media else ""
        return cls(request.prompt, request.negative_prompt, frozen(request.call), media)


_ENCODED = Cache[_PromptKey, tuple[Tensors, Tensors]]()
_CONDITIONS = Cache[_PromptKey, Tensors]()


def encode(model: LoadedModel, requests: Sequence[Request]) -> tuple[Tensors, Tensors]:
    """Conditioning (fp32 or integer, on the device) and token ids (on the CPU) of B requests, row by row."""
    keys, known = [_PromptKey.of(r) for r in requests], _ENCODED.of(model)
    if not known.keys() >= set(keys):
        encode_ahead(model, requests, batch_size=len(requests))
    return _stacked([known[k][0] for k in keys]), _stacked([known[k][1] for k in keys])


def encode_ahead(model: LoadedModel, requests: Sequence[Request], batch_size: int) -> None:
    """Encode every distinct prompt of ``requests``, ``batch_size`` at a time, all padded to one width.

    Raises:
        ModelError: embeddings of different width that no mask goes with.
    """
    known = _ENCODED.of(model)
    for call in {frozen(r.call): r.call for r in requests}.values():
        keys = list(dict.fromkeys(_PromptKey.of(r) for r in requests if r.call == call))
        parts = [_encode_keys(model, part, call) for part in _encoded_together(keys, batch_size)]
        conditioning, tokens = joined([p[0] for p in parts]), joined([p[1] for p in parts])
        for i, key in enumerate(keys):
            known[key] = {n: v[i] for n, v in conditioning.items()}, {n: v[i] for n, v in tokens.items()}


def _encoded_together(keys: Sequence[_PromptKey], batch_size: int) -> Iterator[Sequence[_PromptKey]]:
    """Texts that see media go one by one, because pipelines take one prompt's media at a time."""
    size = 1 if any(key.media for key in keys) else batch_size
    yield from (keys[i : i + size] for i in range(0, len(keys), size))


def once(model: LoadedModel, request: Request, compute: Callable[[Request], Tensors]) -> Tensors:
    """``compute(request)``, computed once for each prompt of a submission."""
    return _CONDITIONS.get(model, _PromptKey.of(request), lambda: compute(request))


def forget(model: LoadedModel) -> None:
    """Drop all encoded prompts, and what :func:`once` has computed for them."""
    _ENCODED.of(model).clear()
    _CONDITIONS.of(model).clear()


def _encode_keys(model: LoadedModel, keys: Sequence[_PromptKey], call: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
    guided = any(key.negative is not None for key in keys)
    negatives = [key.negative or "" for key in keys] if guided else None
    media = load(json.loads(keys[0].media)) if keys[0].media else {}
    prompts = [key.prompt for key in keys]
    with tokenizer_calls.recording(model) as calls:
        encoded = encode_prompts(model, prompts, negatives, {**call, **media})
    tokenizer_calls.refuse_cut_texts(calls, prompts, negatives)
    for text in dict.fromkeys([*prompts, *(negatives or ())]):
        kind = "a prompt" if text in prompts else "the negative prompt"
        refuse_unseen_end(model, calls.calls, text, {**call, **media}, kind, guided)
    return encoded


def refuse_unseen_end(
    model: LoadedModel, calls: Sequence[TokenizerCall], text: str, call: Mapping[str, Any], kind: str, guided: bool
) -> None:
    """Refuse a text whose last words change nothing: pipelines may cut embeddings after the text is encoded.

    Only a text with more tokens than ``max_sequence_length`` is encoded again, with another end.

    Args:
        kind: ``a prompt`` or ``the negative prompt``.
        guided: whether prompts are encoded with negative prompts.

    Raises:
        DataError: an appended sentence changes no embedding.
    """
    limit = model.argument(call, "max_sequence_length") if model.takes("max_sequence_length") else None
    if not isinstance(limit, int) or len(text.encode("utf-8", "surrogatepass")) <= limit or not calls:
        return
    length = max(each.lengths([text])[0] for each in calls)
    if length <= limit:
        return
    with tokenizer_calls.paused():
        negatives = [text] if guided else None
        one, other = (encode_prompts(model, [t], negatives, call)[0] for t in (text, f"{text} and another end"))
    if one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items()):
        what = tokenizer_calls.Cut(length, limit).message(kind, text)
        raise DataError(what, tokenizer_calls.HINT)


def encode_prompts(
    model: LoadedModel, prompts: Sequence[str], negatives: Sequence[str] | None, call: Mapping[str, Any]
) -> tuple[Tensors, Tensors]:
    """Conditioning and token ids of texts, by the model's hooks.

    Args:
        call: arguments of the pipeline, with the loaded media that the text encoder sees.

    Raises:
        ModelError: the tokenizer, the text encoder or a hook raises something that is no error of the user.
    """
    with foreign(f"{model.architecture} cannot encode texts", _TEXTS):
        return _encoded(model, prompts, negatives, call)


_TEXTS = "check the tokenizer and the text encoder in the model folder, and the arguments under rollout.call"


def _encoded(
    model: LoadedModel, prompts: Sequence[str], negatives: Sequence[str] | None, call: Mapping[str, Any]
) -> tuple[Tensors, Tensors]:
    hooks = model.hooks
    tokens = hooks.tokenize(model=model, prompts=prompts, call=call)
    if not tokens:
        encoded = hooks.encode_prompt(
            model=model, prompts=prompts, negative_prompts=negatives, tokens=tokens, call=call
        )
        return on_device(model, encoded), {}
    encoded = _encode_tokens(model, prompts, tokens, call)
    if negatives is not None:
        negative_tokens = hooks.tokenize(model=model, prompts=negatives, call=call)
        encoded |= _prefixed(_encode_tokens(model, negatives, negative_tokens, call))
        tokens = {**tokens, **_prefixed(negative_tokens)}
    return on_device(model, encoded), tokens


def _encode_tokens(model: LoadedModel, prompts: Sequence[str], tokens: Tensors, call: Mapping[str, Any]) -> Tensors:
    encode_prompt = model.hooks.encode_prompt
    return dict(encode_prompt(model=model, prompts=prompts, negative_prompts=None, tokens=tokens, call=call))


def _prefixed(tensors: Tensors) -> Tensors:
    return {f"negative_{name}": value for name, value in tensors.items()}


def on_device(model: LoadedModel, tensors: Tensors) -> Tensors:
    """Encoders' outputs as rollout and replay are given them: where the model computes, in fp32."""
    return {name: lossless(value.to(model.device)) for name, value in tensors.items()}


def _stacked(rows: Sequence[Tensors]) -> Tensors:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Concatenate the rows of several encodings, padded to one width.

    Raises:
        ModelError: their width differs, and no mask goes with them.
    """
    masked = any(name.endswith("_mask") for name in parts[0])
    return {name: torch.cat(_equally_wide(name, [p[name] for p in parts], masked)) for name in parts[0]}


def _equally_wide(name: str, values: Sequence[torch.Tensor], masked: bool) -> list[torch.Tensor]:
    wanted = [max(sizes) for sizes in zip(*(v.shape[1:] for v in values), strict=True)]
    if not masked and any(list(v.shape[1:]) != wanted for v in values):
        raise ModelError(
            f"{name} has widths {sorted({v.shape[1] for v in values})}, and no mask says what is padding",
            "this model needs a plugin: omni-rl new model",
        )
    return [_padded_to(v, wanted) for v in values]


def _padded_to(value: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """(B, ...) to (B, *sizes) with zeros behind."""
    missing = [(0, size - own) for own, size in zip(value.shape[1:], sizes, strict=True)]
    behind = [side for pair in reversed(missing) for side in pair]  # the last dimension first
    return torch.nn.functional.pad(value, behind) if any(behind) else value


def pad_width(value: torch.Tensor, width: int) -> torch.Tensor:
    """(B, L, ...) to (B, width, ...) with zeros on the right."""
    missing = width - value.shape[1]
    return torch.cat([value, value.new_zeros(len(value), missing, *value.shape[2:])], dim=1) if missing else value
