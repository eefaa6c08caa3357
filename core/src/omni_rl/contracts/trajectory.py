"""The trajectory: the tensors of one sample that rollout passes to training.

Floats are fp32. Between processes, tensors are on the CPU. Shapes for a batch of B samples with T stored steps:

=================================  ==================  ==========================================================
key                                shape               note
=================================  ==================  ==========================================================
``latents/<stream>/all``           (B, T + 1, ...)     before the window, and after each of its steps
``latents/<stream>/final``         (B, ...)            the latents that were decoded
``mask/<stream>``                  broadcastable       True: denoised element; absent if all are denoised
``log_probs``                      (B, T)              mean over the denoised elements of all streams
``timesteps``, ``sigmas``          (B, T), (B, T + 1)  exact values of the window; replay never recomputes them
``schedule/timesteps``, ``sigmas`` (B, steps), + 1     exact values of all steps
``start``                          (B,) int64          index in the schedule of the first stored step
``stream_sigmas/<stream>``         (B, T + 1)          for streams with another schedule than the first stream
``draws/<stream>``                 (B, T) int64        seeds of the window's noise (``omni_rl.schedulers.randn``)
``prompt_ids``, ``prompt_embeds``  (B, L), (B, L, D)   with ``*_mask`` (B, L) and ``negative_*``; padded
``condition/<name>``               (B, ...)            other conditioning
``call/<name>``                    (B,)                bool, int64 or fp64: every numeric argument of the pipeline
``uid``, ``sample_id``             (B,) int64          as in the request; the driver compares them
``policy_version``                 (B,) int64          as in the request; the driver compares it
``media/<kind>``                   see omni_rl.contracts.media   quantised to uint8
=================================  ==================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl.contracts import batches
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample, Streams, Tensors
from omni_rl.errors import RunError
from omni_rl.schedulers.randomness import randn

PROMPT_KEYS = tuple(
    sign + name
    for sign in ("", "negative_")
    for name in ("prompt_ids", "prompt_ids_mask", "prompt_embeds", "prompt_embeds_mask")
)
Widths = dict[str, int]
"""Entry and form of a row -> its number of tokens."""

_TOKEN_KEYS = tuple(k for k in PROMPT_KEYS if "_ids" in k)


def text_entries(conditioning: Tensors, tokens: Tensors) -> dict[str, Any]:
    """Conditioning and token ids under their trajectory keys."""
    named = {**conditioning, **tokens}
    known: dict[str, Any] = {k: v for k, v in named.items() if k in PROMPT_KEYS}
    other = {k: v for k, v in named.items() if k not in PROMPT_KEYS}
    return {**known, **({"condition": other} if other else {})}


def conditioning_of(batch: TensorDict) -> Tensors:
    """The ``conditioning`` of ``predict`` from a trajectory batch; inverse of :func:`text_entries`, without tokens."""
    known = {k: batch[k] for k in PROMPT_KEYS if k in batch.keys() and k not in _TOKEN_KEYS}
    return {**known, **(dict(batch["condition"].items()) if "condition" in batch.keys() else {})}


def masks_of(batch: TensorDict) -> Streams:
    """Masks per stream, True for denoised elements; empty if all elements are denoised."""
    return dict(batch["mask"].items()) if "mask" in batch.keys() else {}


def steps_of(batch: TensorDict) -> int:
    """The number of training steps of each row."""
    return int(batch["order" if "order" in batch.keys() else "timesteps"].shape[1])


def at(batch: TensorDict, name: str | tuple[str, ...], step: int, ahead: int = 0) -> torch.Tensor:
    """(B, ...) of the entry (B, T, ...) at training step ``step``, or ``ahead`` stored steps after it.

    Training steps are the stored ones in order, unless ``order`` (B, steps) int64 names a stored step for each row.
    """
    values: torch.Tensor = batch[name]
    if "order" not in batch.keys():
        return values[:, step + ahead]
    return values[torch.arange(len(values)), batch["order"][:, step] + ahead]


def columns(batch: TensorDict, name: str, steps: Sequence[int]) -> torch.Tensor:
    """(B, S) of the entry (B, T) at the training steps ``steps``; see :func:`at`."""
    return torch.stack([at(batch, name, step) for step in steps], dim=1)


def schedule_index(batch: TensorDict, step: int) -> torch.Tensor:
    """(B,) int64: each row's index in the schedule of training step ``step``."""
    stored = batch["order"][:, step] if "order" in batch.keys() else torch.full((len(batch),), step)
    index: torch.Tensor = batch["start"] + stored
    return index


def sigmas_key(batch: TensorDict, stream: str) -> str | tuple[str, str]:
    """The key of the entry (B, T + 1) with the sigmas of a stream: the stream's own, or the common one."""
    own = ("stream_sigmas", stream)
    return own if own in batch.keys(include_nested=True) else "sigmas"


def latents(batch: TensorDict, step: int, ahead: int = 0) -> Streams:
    """(B, ...) fp32 per stream: the latents before training step ``step``, or (ahead = 1) after it."""
    return {n: at(batch, ("latents", n, "all"), step, ahead) for n in batch["latents"].keys()}


def drawn_noise(batch: TensorDict, step: int) -> Streams:
    """The noise of training step ``step``, drawn again from its stored seeds: (B, ...) fp32 on the CPU per stream."""
    shapes = {n: stored["final"].shape[1:] for n, stored in batch["latents"].items()}
    seeds = {n: at(batch, ("draws", n), step).tolist() for n in shapes}
    return {n: torch.stack([randn(seed, shapes[n]) for seed in seeds[n]]) for n in shapes}


def numeric_call(call: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
    """Numeric pipeline arguments as (rows,) tensors: bool, int64 or fp64, so that each keeps its type."""
    dtypes: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
    return {k: torch.full((rows,), v, dtype=dtypes[type(v)]) for k, v in call.items() if type(v) in dtypes}


def identity(requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    """uid, sample_id and policy_version as (B,) int64."""
    names = ("uid", "sample_id", "policy_version")
    return {n: torch.tensor([getattr(r, n) for r in requests], dtype=torch.int64) for n in names}


def collate(samples: Sequence[Sample], agreed: Callable[[Widths], Widths] = lambda widths: widths) -> TensorDict:
    """Stack single trajectories to a batch (N,) without media; prompts of different length are padded with 0.

    Samples of several sizes become a lazy stack (:mod:`omni_rl.contracts.batches`). Each size is padded separately, so
    that a prompt is replayed at the padded length at which it was sampled.

    Args:
        agreed: receives the largest number of tokens of each entry, and returns the number to pad to, which is larger
            if another rank has longer prompts.

    Raises:
        RunError: prompts differ in length, and no mask marks the padding.
    """
    rows = [s.trajectory.exclude("media") for s in samples if s.trajectory is not None]
    forms = [repr(batches.row_form(row.exclude(*_text_keys(row)))) for row in rows]
    named = [(f"{key} of {form}", row, key) for row, form in zip(rows, forms, strict=True) for key in _text_keys(row)]
    widths: Widths = {}
    for name, row, key in named:
        widths[name] = max(row[key].shape[0], widths.get(name, 0))
    widths = agreed(widths)
    for name, row, key in named:
        if row[key].shape[0] < widths[name]:
            _require_mask(row, key)
            row[key] = _padded(row[key], widths[name])
    return batches.stacked(rows)


def _text_keys(row: TensorDict) -> list[str | tuple[str, ...]]:
    """Keys of the tensors with a token dimension first: prompt entries, and outputs of further text encoders."""
    condition = row["condition"].keys() if "condition" in row.keys() else ()
    other: list[tuple[str, ...]] = [("condition", n) for n in condition if n.startswith(("prompt", "negative_prompt"))]
    both: tuple[str | tuple[str, ...], ...] = (*PROMPT_KEYS, *other)
    return [k for k in both if k in row.keys(include_nested=True) and row[k].ndim]


def _require_mask(row: TensorDict, key: str | tuple[str, ...]) -> None:
    name = key[-1] if isinstance(key, tuple) else key
    sign = "negative_" if name.startswith("negative_") else ""
    if not any(str(n).startswith(f"{sign}prompt") and str(n).endswith("_mask") for n in _names(row)):
        raise RunError(f"samples have {name} of different lengths, and no mask that marks the padding")


def _names(row: TensorDict) -> list[str]:
    return [k[-1] if isinstance(k, tuple) else k for k in row.keys(include_nested=True, leaves_only=True)]


def _padded(value: torch.Tensor, width: int) -> torch.Tensor:
    if value.shape[0] == width:
        return value
    return torch.cat([value, value.new_zeros(width - value.shape[0], *value.shape[1:])])
