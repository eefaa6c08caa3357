"""Compares the samples of an engine that has its own implementation of the model with the trainer's samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from omni_rl.contracts import trajectory
from omni_rl.contracts.types import Streams
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe, own_loop
from omni_rl.gate.rounding import rounds_otherwise
from omni_rl.gate.rows import gap, judge
from omni_rl.gate.subject import Sampler

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Minimum tolerance of final latents, relative to the largest. Ten times the floor is allowed if that is more."""

MOST = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""Maximum tolerance."""


def sampler_rows(subject: Sampler, probe: Probe) -> Iterator[Row]:
    """With the same keys and weights, the engine must store the run's text and draw the trainer's samples.

    No row for an engine that samples with the trainer's own model.
    """
    if not subject.engine.supplies:
        return
    _, state = own_loop(subject, probe.prompts)
    first = {r.sample_id for r in probe.prompts}
    stored = trajectory.collate([s for s in probe.samples if s.request.sample_id in first])
    text = trajectory.text_entries(state.conditioning, state.tokens)
    different = [name for name, value in text.items() if not _same(stored[name], value)]
    if different:
        yield judge("sampler", False, f"the engine sampled with other text than the trainer: {different[0]} differs")
        return
    final: Streams = {n: stored["latents", n, "final"].to(x.device) for n, x in state.x.items()}
    others = [own_loop(subject, probe.prompts[:1])[1]]
    if rounds_otherwise(subject):
        others.append(own_loop(subject, probe.prompts[:1], nudge=True)[1])
    floor = max(gap(other.x[n], x[:1]) for n, x in state.x.items() for other in others)
    difference = max(gap(final[n], x) for n, x in state.x.items())
    tolerance = min(max(TOLERANCE[subject.model.dtype], 10 * floor), MOST[subject.model.dtype])
    what = f"for the same keys, the engine's samples differ from the trainer's by {difference:.2g}"
    good = difference <= tolerance
    yield judge("sampler", good, what + ("" if good else f" (at most {tolerance:.1g} is allowed)"))


def _same(stored: Any, own: Any) -> bool:
    if isinstance(own, Mapping):
        return all(_same(stored[name], value) for name, value in own.items())
    return stored.shape == own.shape and torch.equal(stored.to(own), own)
