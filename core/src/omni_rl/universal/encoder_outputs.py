"""Record what a pipeline's encoders return about media, and make them return it again.

What an encoder returns is a nest of tuples, model outputs, distributions and tensors. Its tensors are kept as
conditioning; the nest around them is recorded once for each set of arguments and filled with them again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from transformers import PreTrainedModel

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import posteriors
from omni_rl.universal.call_sites import CallSite, CallSites
from omni_rl.universal.capture import NEEDS_PLUGIN, replaced
from omni_rl.universal.media_conditioning import encoded_prefix

Method = Callable[..., Any]


@dataclass
class EncoderOutputs:
    """What encoders returned in one run of ``__call__``.

    Attributes:
        by_call: (encoder, number of its call) -> what it returned.
        numbers: where a call was made -> its number.
    """

    by_call: dict[tuple[str, int], Any] = field(default_factory=dict)
    numbers: dict[CallSite, int] = field(default_factory=dict)

    def conditioning(self) -> Tensors:
        """Every tensor by its name in the conditioning, with the batch dimension that the pipeline's call had."""
        return {
            f"{encoded_prefix(*call)}{index}": tensor
            for call, output in self.by_call.items()
            for index, tensor in enumerate(tensors_in(output))
        }


@contextlib.contextmanager
def recording(model: LoadedModel) -> Iterator[EncoderOutputs]:
    """Record what encoders return within the context. One that is called by another belongs to the outer call."""
    outputs, numbers, sites, inside = EncoderOutputs(), Counter[str](), CallSites(model.pipe), [False]

    def recorder(name: str, own: Method) -> Method:
        def record(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return own(*args, **kwargs)
            inside[0] = True
            try:
                output = own(*args, **kwargs)
            finally:
                inside[0] = False
            outputs.numbers[sites.next(name)] = numbers[name]
            outputs.by_call[name, numbers[name]] = output
            numbers[name] += 1
            return output

        return record

    with _encoders_replaced(model, recorder):
        yield outputs


@contextlib.contextmanager
def replaying(model: LoadedModel, conditioning: Tensors, templates: EncoderOutputs) -> Iterator[None]:
    """Encoders return the tensors that ``conditioning`` (B, ...) holds, in the form of ``templates``."""
    sites, noise = CallSites(model.pipe), posteriors.noise()

    def replayer(name: str, _: Method) -> Method:
        def replay(*_: Any, **__: Any) -> Any:
            number = templates.numbers.get(sites.next(name))
            if number is None:
                what = f"{model.architecture} calls its {name} in other ways when it denoises than when it encodes"
                raise ModelError(what, NEEDS_PLUGIN)
            template, prefix = templates.by_call[name, number], encoded_prefix(name, number)
            kept = (conditioning[f"{prefix}{i}"] for i, _ in enumerate(tensors_in(template)))
            return _filled(template, kept, noise)

        return replay

    with _encoders_replaced(model, replayer):
        yield


@contextlib.contextmanager
def sampling_as_replayed(model: LoadedModel) -> Iterator[None]:
    """Encoders run, and samples of their distributions have the noise that they have in :func:`replaying`."""
    noise = posteriors.noise()

    def fixed(_: str, own: Method) -> Method:
        def encode(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            return _filled(output, tensors_in(output), noise)

        return encode

    with _encoders_replaced(model, fixed):
        yield


@contextlib.contextmanager
def _encoders_replaced(model: LoadedModel, by: Callable[[str, Method], Method]) -> Iterator[None]:
    """Put ``by(name, own)`` in the place of every encoder's own method."""
    with contextlib.ExitStack() as stack:
        for name, (owner, method) in _encoders(model).items():
            stack.enter_context(replaced(owner, **{method: by(name, getattr(owner, method))}))
        yield


def _encoders(model: LoadedModel) -> dict[str, tuple[Any, str]]:
    """Name -> (object, method): the pipeline's ``encode_image``, autoencoders, and transformers' models."""
    encoders: dict[str, tuple[Any, str]] = {}
    if hasattr(model.pipe, "encode_image"):
        encoders["encode_image"] = model.pipe, "encode_image"
    for name, module in model.modules.items():
        if name in model.denoisers:
            continue
        if hasattr(module, "encode"):
            encoders[name] = module, "encode"
        elif isinstance(module, PreTrainedModel):
            encoders[name] = module, "forward"
    return encoders


def tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a nest, in order."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, DiagonalGaussianDistribution):
        yield output.parameters
    elif isinstance(output, (Mapping, tuple, list)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_in(value)


def _filled(template: Any, kept: Iterator[torch.Tensor], noise: torch.Generator) -> Any:
    """``template`` with the tensors of ``kept`` in its tensors' places, in their dtype."""
    if isinstance(template, torch.Tensor):
        return _like(template, next(kept))
    if isinstance(template, DiagonalGaussianDistribution):
        return posteriors.FixedNoiseGaussian(_like(template.parameters, next(kept)), template, noise)
    if isinstance(template, Mapping):
        return type(template)(**{name: _filled(value, kept, noise) for name, value in template.items()})
    if isinstance(template, (tuple, list)):
        return type(template)(_filled(value, kept, noise) for value in template)
    return template


def _like(template: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    value = kept.to(template.dtype)
    return value if value.ndim == template.ndim else value.flatten(0, 1)  # of several images at once
