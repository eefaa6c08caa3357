"""Which latents a pipeline steps, and how its ``__call__`` takes them.

Found by letting the pipeline draw its own latents once, for one row: what reaches ``scheduler.step`` are the streams,
in that order. Given as arguments they must reach it too. Some pipelines take them as they draw them and pack them
themselves, and some normalise what they are given by the statistics of an autoencoder: that moves, scales and shifts
elements and does nothing else, so it can be read off and undone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import affine_maps, capture, scheduler_stand_ins
from omni_rl.universal.affine_maps import Elementwise, NotElementwiseError
from omni_rl.universal.image_starts import Start
from omni_rl.universal.media_conditioning import START
from omni_rl.universal.prompt_outputs import NEEDS_PLUGIN

Ask = Callable[..., scheduler_stand_ins.OneStep]
"""Takes a single step of one row with these latents (and generator) as arguments."""


@dataclass(frozen=True)
class Stream:
    """One stream of latents.

    Attributes:
        parameter: the argument of ``__call__`` that takes it.
        shape: of one sample, as it is stepped.
        way: from the argument to what is stepped; None: the argument is stepped as it is.
        start: where in the argument it stands, if a picture is a part of that; then ``way`` is from there on.
    """

    parameter: str
    shape: tuple[int, ...]
    way: Elementwise | None = None
    start: Start | None = None

    def argument(self, x: torch.Tensor, conditioning: Tensors) -> torch.Tensor:
        """As ``__call__`` takes it, from (B, *shape).

        Raises:
            ModelError: a picture is a part of it, and conditioning of a plugin's own form does not hold that.
        """
        given, name = x if self.way is None else self.way.back(x), START + self.parameter
        if self.start is None:
            return given
        if name not in conditioning:
            what = f"{self.parameter} hold a picture, and the conditioning has no {name}"
            raise ModelError(what, "keep what core's prepare_condition answers, or answer every hook of the model")
        return self.start.argument(given, conditioning[name])


def arguments(streams: Mapping[str, Stream], x: Streams, conditioning: Tensors) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return {stream.parameter: stream.argument(x[name], conditioning) for name, stream in streams.items()}


def find_streams(model: LoadedModel, ask: Ask, start: Start | None = None) -> dict[str, Stream]:
    """Every stream by name.

    Args:
        start: what the pipeline starts the first one from, if a picture is a part of that.

    Raises:
        ModelError: a stream has no argument, its latents do not reach the loop unless changed in a way that cannot be
            undone, or it does not start from standard normal noise, which is what core draws.
    """
    with capture.drawn_shapes() as drawn:
        probe = ask(streams=None, generator=capture.discarded())
    stepped = [tuple(s.shape[1:]) for s in probe.samples]
    _check_noise(model, probe.samples, ask(streams=None, generator=capture.discarded(1)).samples)
    parameters = _parameters(model, len(stepped))
    if start is not None and len(start.drawn) == math.prod(stepped[0]):
        ask = _among(start, parameters[0], ask)
    else:
        start = None
    try:
        ways = _ways(ask, parameters, stepped, _as_drawn(stepped, drawn), model.device)
    except NotElementwiseError as reason:
        what = (
            f"{model.architecture} changes the latents it is given as {parameters[0]}= before it steps them: {reason}"
        )
        raise ModelError(what, NEEDS_PLUGIN) from reason
    names = ["x" if p == "latents" else p.removesuffix("_latents") for p in parameters]
    found = zip(names, parameters, stepped, ways, strict=True)
    streams = {n: Stream(p, shape, None if way.trivial else way) for n, p, shape, way in found}
    return streams if start is None else {**streams, names[0]: replace(streams[names[0]], start=start)}


def _among(start: Start, parameter: str, ask: Ask) -> Ask:
    """``ask``, whose latents of this name are what is drawn of ``start``."""

    def asked(**arguments: Any) -> scheduler_stand_ins.OneStep:
        if parameter in arguments:
            arguments[parameter] = start.argument(arguments[parameter])
        return ask(**arguments)

    return asked


def _check_noise(model: LoadedModel, one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> None:
    """Mean and deviation, within six standard errors, of the elements that two generators draw differently."""
    for sample, different in zip(one, other, strict=True):
        drawn = sample[sample != different].float()
        size, std, mean = drawn.numel(), float(drawn.std()), float(drawn.mean())
        if size > 1 and (abs(std - 1) > 6 / math.sqrt(2 * size) or abs(mean) > 6 / math.sqrt(size)):
            what = f"{model.architecture} starts from noise of mean {mean:.2g} and deviation {std:.2g}, not 0 and 1"
            raise ModelError(what, NEEDS_PLUGIN)


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


def _ways(
    ask: Ask,
    parameters: Sequence[str],
    stepped: Sequence[tuple[int, ...]],
    drawn: Sequence[tuple[int, ...]],
    device: torch.device,
) -> list[Elementwise]:
    """From every argument, in the shape in which it is stepped or else in the one in which it is drawn."""

    def through(values: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        latents = {p: value.to(device) for p, value in zip(parameters, values, strict=True)}
        samples = ask(streams=len(parameters), **latents).samples
        if [tuple(s.shape[1:]) for s in samples] != list(stepped):
            raise NotElementwiseError("they get another shape")
        return samples

    try:
        return affine_maps.find(through, stepped)
    except (NotElementwiseError, ModelError, RuntimeError, ValueError, LookupError):
        if drawn == stepped:
            raise
    return affine_maps.find(through, drawn)
