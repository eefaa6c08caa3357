"""Measure which batches a pipeline takes: rows of several prompts, and rows at several timesteps.

Measured with prompts, noise and timesteps of its own, never with those of a run's first batch: the result depends on
the model and the arguments alone, so that a run goes the same way with and without the gate, and when it is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.model import tokenizer_calls
from omni_rl.model.encoding import encode_prompts, joined, on_device
from omni_rl.schedulers.randomness import randn
from omni_rl.universal import capture, media_conditioning
from omni_rl.universal.ask import ask, encode_media_of_row, latent_arguments, streams_of
from omni_rl.universal.batching import Mode, SingleStep, agree, fastest_mode, in_groups, rows_are_apart, take
from omni_rl.universal.embedding_rows import by_width
from omni_rl.universal.media_conditioning import CallKey
from omni_rl.universal.prompt_outputs import text_arguments
from omni_rl.universal.scheduler_stand_ins import OneStep
from omni_rl.universal.text_encoding import TWO_TEXTS, encode_by_width, encode_texts, grows

_TWO_OF_ONE_LENGTH = ["a " * 36, "b " * 36]
_THREE_SHORT, _THREE_SHORT_OF_ONE_LENGTH = ["a", "a b", "b"], ["a", "b", "c"]
"""Short enough for any limit that a plugin or ``max_sequence_length`` sets."""

_ENDS = torch.tensor([0.98, 0.98, 0.02])
"""Timesteps of three rows near the two ends of the schedule, as shares of its length: far apart, a wrong one shows."""


class _Key(NamedTuple):
    negative: bool
    call: CallKey

    @classmethod
    def of(cls, conditioning: Tensors, call: Mapping[str, Any]) -> _Key:
        return cls(_has_negative(conditioning), CallKey.of(conditioning, call))


_ONE_ROW = Cache[_Key, bool]()
_MODES = Cache[_Key, Mode]()


def _has_negative(conditioning: Tensors) -> bool:
    return any(name.startswith("negative_") for name in conditioning)


def single_step(model: LoadedModel, call: Mapping[str, Any]) -> SingleStep:
    """The pipeline's velocity as a function of x, one timestep (0-d, or (B,) where it allows that) and conditioning."""

    def step(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        one = OneStep(model.pipe.scheduler, t, streams=len(x))
        ask(model, one, conditioning, call, **latent_arguments(model, x, conditioning, call))
        return {name: v.float() for name, v in zip(x, one.velocities, strict=True)}

    def group_by_group(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        groups = _groups_in_one_call(conditioning, len(next(iter(x.values()))))
        if len(groups) == 1:
            return step(x, t, conditioning)
        return in_groups(groups, lambda rows: step(take(x, rows), t[rows] if t.ndim else t, take(conditioning, rows)))

    return group_by_group


def _groups_in_one_call(conditioning: Tensors, rows: int) -> list[torch.Tensor]:
    """Indices (b,) of rows whose texts are of one width, and whose media's pixels are the same where they are kept."""
    alike = media_conditioning.alike(conditioning, rows)
    return [same[part] for same in alike for part in by_width(take(conditioning, same), len(same))]


def takes_one_row(model: LoadedModel, call: Mapping[str, Any]) -> bool:
    """Whether rows of different prompts have to go one by one (see :func:`measure_rows`)."""
    return any(_ONE_ROW.of(model).get(_Key(negative, CallKey.of({}, call))) for negative in (False, True))


def measure_rows(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> None:
    """Compare two prompts of different length in one call with a call for each; once for each set of arguments.

    Some pipelines were written for one prompt at a time: they fail with two, or let the shorter prompt see its padding
    although a mask goes with it. In the second case every prompt is encoded at its own length from now on.
    """
    key, known = _Key(negative, CallKey.of({}, call)), _ONE_ROW.of(model)
    if key in known or media_conditioning.among(call):  # prompts with media are encoded one by one
        return
    known[key] = False

    def encoded(prompts: Sequence[str]) -> Tensors:
        with tokenizer_calls.paused():
            return on_device(model, encode_texts(model, text_arguments(prompts, prompts if negative else None), call))

    with torch.no_grad(), capture.silent(model.pipe), capture.blaming_arguments(model.pipe):
        two = encoded(TWO_TEXTS)
        x = _noise(model, 2, {n: stream.shape for n, stream in streams_of(model, two, call).items()})
        t, step = _timesteps(model, torch.tensor([0.5, 0.5])), single_step(model, call)
        if grows(model, negative, call) and not _first_is_as_alone(model, step, x, t, two, encoded(TWO_TEXTS[:1])):
            encode_by_width(model, negative, call)
            two = encoded(_TWO_OF_ONE_LENGTH)
        with model.compute():
            known[key] = not rows_are_apart(step, x, t, two, _tolerance(model))


def _first_is_as_alone(
    model: LoadedModel, step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, alone: Tensors
) -> bool:
    """Whether the first row's velocity is that of its text encoded ``alone``."""
    first = torch.tensor([0])
    with model.compute():
        padded, own = (step(take(x, first), t[0], c) for c in (take(conditioning, first), alone))
    return agree(padded, own, _tolerance(model))


def _noise(model: LoadedModel, rows: int, shapes: Mapping[str, Sequence[int]]) -> Streams:
    return {n: randn(0, (rows, *shape)).to(model.device) for n, shape in shapes.items()}


def _timesteps(model: LoadedModel, shares: torch.Tensor) -> torch.Tensor:
    length: float = model.pipe.scheduler.config.num_train_timesteps
    return (shares * length).to(model.device)


def _tolerance(model: LoadedModel) -> float:
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def known_mode(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> Mode | None:
    """What :func:`batching_mode` has measured; None: nothing yet, as where a plugin computes velocities itself."""
    return _MODES.of(model).get(_Key.of(conditioning, call))


def batching_mode(model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Mode:
    """Which batches of rows at several timesteps the pipeline takes with these arguments.

    Args:
        x, conditioning: of a batch. Only shapes and names are looked at, and the sizes of the first row's media.
            Conditioning that only a plugin's ``prepare_condition`` makes is that of the first row.
    """

    def measure() -> Mode:
        with torch.no_grad(), model.compute(), capture.silent(model.pipe):
            rows, t = _three_rows(model, conditioning, call), _timesteps(model, _ENDS)
            noise = _noise(model, len(t), {n: v.shape[1:] for n, v in x.items()})
            return fastest_mode(single_step(model, call), noise, t, rows, _tolerance(model))

    return _MODES.get(model, _Key.of(conditioning, call), measure)


def _three_rows(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Conditioning (3, ...) of three texts with blank media, under the names that ``conditioning`` has."""
    row, counts = {name: value[:1] for name, value in conditioning.items()}, dict(model.counts)
    media = media_conditioning.blank(row)
    # Prompts with media are encoded one by one, and without a mask only those of one length can then share a batch
    parts = [[text] for text in _THREE_SHORT_OF_ONE_LENGTH] if media else [_THREE_SHORT]
    texts = [_encoded(model, part, conditioning, {**call, **media}) for part in parts]
    encoded = on_device(model, encode_media_of_row(model, texts[0], call, media)) if media else {}
    model.counts.update(counts)  # the gate counts what replay encodes, and this is no replay
    three = {name: value.expand(3, *value.shape[1:]) for name, value in row.items()}
    return three | joined(texts) | {name: torch.stack([value] * 3) for name, value in encoded.items()}


def _encoded(model: LoadedModel, prompts: Sequence[str], like: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Texts encoded by the model's plugin or, if ``like`` is not of its form, by the pipeline itself."""
    negatives = prompts if _has_negative(like) and model.takes("negative_prompt") else None
    encoded, _ = encode_prompts(model, prompts, negatives, call)
    if encoded.keys() <= like.keys():
        return encoded
    return on_device(model, encode_texts(model, text_arguments(prompts, negatives), call))
