"""Which latents a pipeline denoises, and how its ``__call__`` takes them.

The pipeline draws its own latents once, for one row: what reaches ``scheduler.step`` are the streams, in that order.
Latents that are given as arguments must reach it too. Some pipelines take them in the shape in which they draw them,
and pack them themselves; some normalise them by the statistics of an autoencoder. Both are affine maps
(:mod:`omni_rl.universal.affine_maps`), which are found and inverted.
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
from omni_rl.universal import affine_maps, capture
from omni_rl.universal.affine_maps import AffineMap, NotAffineError
from omni_rl.universal.capture import NEEDS_PLUGIN
from omni_rl.universal.image_starts import ImageStart
from omni_rl.universal.media_conditioning import START
from omni_rl.universal.noised_starts import no_step
from omni_rl.universal.prompt_outputs import needs_of
from omni_rl.universal.scheduler_stand_ins import OneStep

RunStep = Callable[..., OneStep]
"""Runs a single step of one row, with the latents (and the generator) that are given as arguments."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stream:
    """One stream of latents.

    Attributes:
        parameter: the argument of ``__call__`` that takes it.
        shape: of one sample, as it is denoised.
        map: from the argument to what is denoised; None: the argument is denoised unchanged.
        image_start: set when this argument already contains the image; ``map`` then covers only its noisy part.
    """

    parameter: str
    shape: Shape
    map: AffineMap | None = None
    image_start: ImageStart | None = None

    def argument(self, x: torch.Tensor, conditioning: Tensors) -> torch.Tensor:
        """The stream as ``__call__`` takes it, from (B, *shape).

        Raises:
            ModelError: the argument contains an image, which conditioning of a plugin's own form does not hold.
        """
        noisy, name = x if self.map is None else self.map.inverse(x), START + self.parameter
        if self.image_start is None:
            return noisy
        if name not in conditioning:
            what = f"{self.parameter} hold an image, and the conditioning has no {name}"
            raise ModelError(what, "keep what core's prepare_condition answers, or answer every hook of the model")
        return self.image_start.argument(noisy, conditioning[name])


def arguments(streams: Mapping[str, Stream], x: Streams, conditioning: Tensors) -> dict[str, torch.Tensor]:
    """The latents as arguments of ``__call__``, by argument name."""
    return {stream.parameter: stream.argument(x[name], conditioning) for name, stream in streams.items()}


def find_streams(model: LoadedModel, run_step: RunStep, image_start: ImageStart | None = None) -> dict[str, Stream]:
    """Every stream by name.

    Args:
        image_start: the pipeline's initial latents, if they contain an image; its noisy part is one of the streams.

    Raises:
        ModelError: a stream has no argument, its latents do not reach the loop unless changed in a way that cannot be
            inverted, or it does not start from standard normal noise, which is what core draws.
    """
    with capture.drawn_shapes() as drawn:
        first = run_step(streams=None, generator=capture.throwaway_generator())
    if not first.samples:
        raise no_step(model, needs_of(model).least_steps)
    shapes = [tuple(s.shape[1:]) for s in first.samples]
    _check_noise(model, first.samples, run_step(streams=None, generator=capture.throwaway_generator(1)).samples)
    parameters = _parameters(model, len(shapes))
    if image_start is not None and len(image_start.noisy) == math.prod(shapes[0]):
        run_step = _around_image(image_start, parameters[0], run_step)
    else:
        image_start = None
    try:
        maps = _maps(run_step, parameters, shapes, _as_drawn(shapes, drawn), model.device)
    except NotAffineError as reason:
        what = (
            f"{model.architecture} changes the latents it is given as {parameters[0]}= before it steps them: {reason}"
        )
        raise ModelError(what, NEEDS_PLUGIN) from reason
    except (
        capture.CallRefusedError,
        capture.CallFailedError,
    ) as error:  # without latents it has just taken the same arguments
        what = f"{model.architecture} does not take the latents that core gives it as {parameters[0]}=: {error.what}"
        raise ModelError(what, NEEDS_PLUGIN) from error
    names = ["x" if p == "latents" else p.removesuffix("_latents") for p in parameters]
    parts = zip(names, parameters, shapes, maps, strict=True)
    streams = {n: Stream(p, shape, None if each.is_identity else each) for n, p, shape, each in parts}
    return streams | {names[0]: replace(streams[names[0]], image_start=image_start)}


def _around_image(image_start: ImageStart, parameter: str, run_step: RunStep) -> RunStep:
    """``run_step``, whose argument ``parameter`` is the noisy part of ``image_start`` alone."""

    def run_around_image(**arguments: Any) -> OneStep:
        if parameter in arguments:
            arguments[parameter] = image_start.argument(arguments[parameter])
        return run_step(**arguments)

    return run_around_image


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


def _as_drawn(stepped: Sequence[Shape], drawn: Sequence[Shape]) -> list[Shape]:
    """For each stream the first shape drawn that has as many elements, or the shape in which it is stepped."""
    return [next((d[1:] for d in drawn if d[0] == 1 and math.prod(d) == math.prod(s)), s) for s in stepped]


def _maps(
    run_step: RunStep, parameters: Sequence[str], stepped: Sequence[Shape], drawn: Sequence[Shape], device: torch.device
) -> list[AffineMap]:
    """From every argument, in the shape in which it is stepped or else in the one in which it is drawn."""

    def through(inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        latents = {p: value.to(device) for p, value in zip(parameters, inputs, strict=True)}
        samples = run_step(streams=len(parameters), **latents).samples
        if [tuple(s.shape[1:]) for s in samples] != list(stepped):
            raise NotAffineError("they get another shape")
        return samples

    try:
        return affine_maps.find_maps(through, stepped)
    except (NotAffineError, ModelError, RuntimeError, ValueError, LookupError):
        if drawn == stepped:
            raise
    return affine_maps.find_maps(through, drawn)
