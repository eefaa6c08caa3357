"""Which latents a pipeline steps, and how its ``__call__`` takes them.

Found by letting the pipeline draw its own latents once, for one row: what reaches ``scheduler.step`` are the streams, in
that order. Given as arguments they must reach it unchanged. Some pipelines take them as they draw them and pack them
themselves; that moves elements and does nothing else, so it can be read off and undone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from omni_rl.errors import ModelError
from omni_rl.model import capture
from omni_rl.model.loaded import LoadedModel
from omni_rl.model.prompt_outputs import NEEDS_PLUGIN
from omni_rl.types import Streams

Ask = Callable[..., capture.OneStep]
"""Takes a single step of one row with these latents (and generator) as arguments."""

_DIGITS = 128
"""A place is told in digits that bf16 carries exactly."""


@dataclass(frozen=True)
class Stream:
    """One stream of latents.

    Attributes:
        parameter: the argument of ``__call__`` that takes it.
        shape: of one sample, as it is stepped.
        given: of one sample, as the argument has it.
        order: (P,) int64, element i of the argument is element ``order[i]`` of what is stepped; None: i itself.
    """

    parameter: str
    shape: tuple[int, ...]
    given: tuple[int, ...]
    order: torch.Tensor | None = None

    def argument(self, x: torch.Tensor) -> torch.Tensor:
        """(B, *given) from (B, *shape)."""
        if self.order is None:
            return x
        return x.flatten(1)[:, self.order.to(x.device)].view(len(x), *self.given)


def arguments(streams: Mapping[str, Stream], x: Streams) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return {stream.parameter: stream.argument(x[name]) for name, stream in streams.items()}


def find_streams(model: LoadedModel, ask: Ask) -> dict[str, Stream]:
    """Every stream by name.

    Raises:
        ModelError: a stream has no argument, or its latents do not reach the loop unchanged.
    """
    with capture.drawn_shapes() as drawn:
        probe = ask(streams=None, generator=capture.discarded())
    stepped = [tuple(s.shape[1:]) for s in probe.samples]
    parameters = _parameters(model, len(stepped))
    packed = _as_drawn(stepped, drawn)
    try:
        orders = _orders(ask, parameters, stepped, stepped, model.device)
    except (ModelError, RuntimeError, ValueError, LookupError):
        if packed == stepped:
            raise
        orders = None
    if orders is None and packed != stepped:
        orders = _orders(ask, parameters, stepped, packed, model.device)
    if orders is None:
        what = f"{model.architecture} changes the latents it is given as {parameters[0]}= before it steps them"
        raise ModelError(what, NEEDS_PLUGIN)
    names = ["x" if p == "latents" else p.removesuffix("_latents") for p in parameters]
    found = zip(names, parameters, stepped, packed, orders, strict=True)
    return {n: Stream(p, s, s) if order is None else Stream(p, s, given, order) for n, p, s, given, order in found}


def _parameters(model: LoadedModel, count: int) -> list[str]:
    taken = inspect.signature(type(model.pipe).__call__).parameters
    others = [p for p in taken if p.endswith("_latents") and not p.startswith(("image", "init", "cond"))]
    parameters = [n for n in ("latents", *others) if n in taken][:count]
    if len(parameters) < count or not parameters:
        what = f"{model.architecture} steps {count} latent streams but __call__ takes {parameters}"
        raise ModelError(what, NEEDS_PLUGIN)
    return parameters


def _as_drawn(stepped: Sequence[tuple[int, ...]], drawn: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The first shape of as many elements that was drawn for each stream, or the stepped one."""
    return [next((d[1:] for d in drawn if d[0] == 1 and math.prod(d) == math.prod(s)), s) for s in stepped]


def _orders(
    ask: Ask,
    parameters: Sequence[str],
    stepped: Sequence[tuple[int, ...]],
    given: Sequence[tuple[int, ...]],
    device: torch.device,
) -> list[torch.Tensor | None] | None:
    """``Stream.order`` of every stream whose argument has the shape ``given``; None when more than places change."""
    sizes = [math.prod(shape) for shape in given]
    places = [torch.zeros(size, dtype=torch.long) for size in sizes]
    unit = 1
    while unit < max(sizes):
        digits = [torch.arange(size) // unit % _DIGITS for size in sizes]
        latents = {p: d.float().view(1, *g).to(device) for p, d, g in zip(parameters, digits, given, strict=True)}
        samples = ask(streams=len(parameters), **latents).samples
        if [tuple(s.shape[1:]) for s in samples] != list(stepped):
            return None
        found = [s.flatten().double().cpu() for s in samples]
        if not all(torch.equal(f, f.round()) for f in found):
            return None
        places = [place + unit * f.long() for place, f in zip(places, found, strict=True)]
        unit *= _DIGITS
    own = [torch.arange(size) for size in sizes]
    if not all(torch.equal(place.sort().values, o) for place, o in zip(places, own, strict=True)):
        return None
    same = [torch.equal(p, o) and s == g for p, o, s, g in zip(places, own, stepped, given, strict=True)]
    return [None if keep else place.argsort() for keep, place in zip(same, places, strict=True)]
