"""The row that holds an engine with an implementation of the model of its own to the trainer's."""

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
"""Of final latents, relative to the largest; ten times what another batch composition or rounding changes, if more."""

MOST = {torch.float32: 1e-3, torch.bfloat16: 1e-1}


def sampler_rows(subject: Sampler, probe: Probe) -> Iterator[Row]:
    """Same keys, same weights: the engine stores the run's text, and its samples are the ones the trainer would draw.

    Nothing for an engine that samples with the trainer's own model.
    """
    if not subject.engine.supplies:
        return
    _, state = own_loop(subject, probe.prompts)
    first = {r.sample_id for r in probe.prompts}
    stored = trajectory.collate([s for s in probe.samples if s.request.sample_id in first])
    text = trajectory.text_entries(state.conditioning, state.tokens)
    different = [name for name, value in text.items() if not _same(stored[name], value)]
    if different:
        yield judge("sampler", False, f"the engine's samples were drawn with another text: {different[0]} differs")
        return
    final: Streams = {n: stored["latents", n, "final"].to(x.device) for n, x in state.x.items()}
    others = [own_loop(subject, probe.prompts[:1])[1]]
    if rounds_otherwise(subject):
        others.append(own_loop(subject, probe.prompts[:1], nudge=True)[1])
    floor = max(gap(other.x[n], x[:1]) for n, x in state.x.items() for other in others)
    found = max(gap(final[n], x) for n, x in state.x.items())
    tolerance = min(max(TOLERANCE[subject.model.dtype], 10 * floor), MOST[subject.model.dtype])
    what = f"the engine's samples lie within {found:.2g} of the trainer's for the same keys"
    yield judge("sampler", found <= tolerance, what + ("" if found <= tolerance else f" (at most {tolerance:.1g})"))


def _same(stored: Any, own: Any) -> bool:
    if isinstance(own, Mapping):
        return all(_same(stored[name], value) for name, value in own.items())
    return stored.shape == own.shape and torch.equal(stored.to(own), own)
