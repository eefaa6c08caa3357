"""Pictures and clips that a sample is conditioned on, for pipelines that take them as arguments of ``__call__``.

Encoders are asked once a prompt: what autoencoders and image encoders answer on the way to the first denoiser call is
kept as conditioning, ``encoded_<encoder>_<call>_<tensor>`` (B, ...), beside the media's sizes, ``size_of_<argument>``
(B, 2) or, for a list of n, (B, n, 2): width and height. In every later question the pipeline is handed blank media of
these sizes, and its encoders answer what was kept. So neither rollout steps nor replay encode again, and whatever the
pipeline does with its encoders' answers (packing, concatenation, repetition) is its own code.

Two things reach the denoiser by another way and are kept as they are: the pixels of what no encoder sees (masks),
``pixels_of_<argument>`` (B, [n,] H, W, 3) uint8, and latents of which the picture is a part, ``start_of_<argument>``
(B, ...), see :mod:`omni_rl.universal.image_starts`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from transformers import PreTrainedModel

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import posteriors
from omni_rl.universal.call_sites import Call, Calls

SIZE = "size_of_"
ENCODED = "encoded_"
PIXELS = "pixels_of_"
START = "start_of_"

Answer = Any
"""What an encoder returned: tensors in tuples, model outputs and distributions."""


def is_stand_in(name: str) -> bool:
    """Whether conditioning of this name stands for media, and is no argument of ``__call__`` itself."""
    return name.startswith((SIZE, ENCODED, PIXELS, START))


def among(call: Mapping[str, Any]) -> set[str]:
    """The arguments that are pictures, or lists of them."""
    return {name for name, value in call.items() if isinstance(_first(value), Image.Image)}


def without(call: Mapping[str, Any]) -> dict[str, Any]:
    """The other arguments."""
    media = among(call)
    return {name: value for name, value in call.items() if name not in media}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def sizes(media: Mapping[str, Any]) -> Tensors:
    """Width and height of loaded media: (2,) for one, (n, 2) for a list, int64, by conditioning name."""
    return {SIZE + name: torch.tensor(_sizes(value)) for name, value in media.items()}


def _sizes(value: Any) -> Any:
    return [_sizes(v) for v in value] if isinstance(value, list) else list(value.size)


def pixels(media: Mapping[str, Any]) -> Tensors:
    """Loaded media themselves: (H, W, 3) for one, (n, H, W, 3) for a list, uint8, by conditioning name."""
    return {PIXELS + n: torch.from_numpy(np.array(v if isinstance(v, Image.Image) else [*map(np.array, v)]))
            for n, v in media.items()}  # fmt: skip


def in_place(conditioning: Tensors) -> dict[str, Any]:
    """Media as arguments: what is kept of them, and black ones of the sizes that ``conditioning`` names.

    Raises:
        ModelError: the rows' media differ in size, or in pixels that are kept.
    """
    kept = {n.removeprefix(PIXELS): _shared(n, v).numpy() for n, v in conditioning.items() if n.startswith(PIXELS)}
    return blank(conditioning) | {n: _pictures(v) for n, v in kept.items()}


def _pictures(values: Any) -> Any:
    return [Image.fromarray(v) for v in values] if values.ndim == 4 else Image.fromarray(values)


def alike(conditioning: Tensors, rows: int) -> list[torch.Tensor]:
    """Indices (b,) of the rows that share the pixels that are kept, over all ``rows``."""
    kept = [v.flatten(1).cpu() for n, v in conditioning.items() if n.startswith(PIXELS)]
    if not kept:
        return [torch.arange(rows)]
    _, group = torch.cat(kept, dim=1).unique(dim=0, return_inverse=True)
    return [(group == number).nonzero().flatten() for number in group.unique()]


def blank(conditioning: Tensors, colour: str = "black") -> dict[str, Any]:
    """Media of one colour and the sizes that ``conditioning`` names, as arguments.

    Raises:
        ModelError: the rows' media differ in size.
    """
    named = {n: _shared(n, v).tolist() for n, v in conditioning.items() if n.startswith(SIZE)}
    return {n.removeprefix(SIZE): _plain(size, colour) for n, size in named.items()}


def _shared(name: str, values: torch.Tensor) -> torch.Tensor:
    """Of all rows, on the CPU."""
    first = values[0].cpu()
    if not bool((values.cpu() == first).all()):
        what, _, argument = name.partition("_of_")
        raise ModelError(f"one batch holds media of different {what.removesuffix('s')}s for {argument}=")
    return first


def _plain(size: Any, colour: str) -> Any:
    return [_plain(s, colour) for s in size] if isinstance(size[0], list) else Image.new("RGB", tuple(size), colour)


def signature(conditioning: Tensors) -> tuple[Any, ...]:
    """The sizes of the media, as a part of keys of ``LoadedModel.memo``."""
    return tuple((n, str(v[0].tolist())) for n, v in sorted(conditioning.items()) if n.startswith(SIZE))


def encoder_answers(conditioning: Tensors, encoder: str) -> list[torch.Tensor]:
    """(B, ...), or (B, n, ...) where it saw n pictures at once, of every call of an encoder, for plugins.

    It is the first tensor of what the encoder answered.
    """
    kept = (conditioning.get(f"{_place(encoder, number)}0") for number in itertools.count())
    return list(itertools.takewhile(lambda answer: answer is not None, kept))  # type: ignore[arg-type]


def latent_modes(conditioning: Tensors, encoder: str) -> list[torch.Tensor]:
    """(B, C, ...) of every call of an autoencoder, for plugins: the modes of the distributions that it answered."""
    return [DiagonalGaussianDistribution(moments).mode() for moments in encoder_answers(conditioning, encoder)]


def standardised_latents(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """Latents (B, C, F, h, w) of a video autoencoder in its denoiser's scale, channel by channel, for plugins."""
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


@dataclass
class Answers:
    """What encoders answered to a question, in the order of their calls.

    Attributes:
        by_call: (encoder, number of the call) -> what it returned.
        numbers: where a call was made -> its number.
    """

    by_call: dict[tuple[str, int], Answer] = field(default_factory=dict)
    numbers: dict[Call, int] = field(default_factory=dict)

    def conditioning(self) -> Tensors:
        """Every tensor by its name; a row's own, if the question was about one row."""
        return {
            f"{_place(*call)}{index}": tensor
            for call, answer in self.by_call.items()
            for index, tensor in enumerate(leaves(answer))
        }


def _place(encoder: str, number: int) -> str:
    return f"{ENCODED}{encoder}_{number}_"


@contextlib.contextmanager
def recording(model: LoadedModel) -> Iterator[Answers]:
    """Record what encoders answer within the context; what one asks another counts as its own."""
    answers, numbers, calls, inside = Answers(), Counter[str](), Calls(model.pipe), [False]

    def recorder(name: str, own: Callable[..., Answer]) -> Callable[..., Answer]:
        def record(*args: Any, **kwargs: Any) -> Answer:
            if inside[0]:
                return own(*args, **kwargs)
            inside[0] = True
            try:
                answer = own(*args, **kwargs)
            finally:
                inside[0] = False
            answers.numbers[calls.next(name)] = numbers[name]
            answers.by_call[name, numbers[name]] = answer
            numbers[name] += 1
            return answer

        return record

    with _replaced(model, recorder):
        yield answers


@contextlib.contextmanager
def answering(model: LoadedModel, conditioning: Tensors, templates: Answers) -> Iterator[None]:
    """Encoders answer what ``conditioning`` (B, ...) kept, in the form of ``templates``."""
    calls, noise = Calls(model.pipe), posteriors.noise()

    def replay(name: str, own: Callable[..., Answer]) -> Callable[..., Answer]:
        def answer(*_: Any, **__: Any) -> Answer:
            number = templates.numbers.get(calls.next(name))
            if number is None:
                what = f"{model.architecture} calls its {name} in other ways when it denoises than when it encodes"
                raise ModelError(what, "this model needs a plugin: omni-rl new model")
            template = templates.by_call[name, number]
            kept = (conditioning[f"{_place(name, number)}{i}"] for i, _ in enumerate(leaves(template)))
            return _filled(template, kept, noise)

        return answer

    with _replaced(model, replay):
        yield


@contextlib.contextmanager
def drawing_as_kept(model: LoadedModel) -> Iterator[None]:
    """Encoders answer by themselves; samples of what they answer have the noise that they have in :func:`answering`."""
    noise = posteriors.noise()

    def settled(_: str, own: Callable[..., Answer]) -> Callable[..., Answer]:
        def answer(*args: Any, **kwargs: Any) -> Answer:
            given = own(*args, **kwargs)
            return _filled(given, leaves(given), noise)

        return answer

    with _replaced(model, settled):
        yield


@contextlib.contextmanager
def _replaced(model: LoadedModel, by: Callable[[str, Callable[..., Answer]], Callable[..., Answer]]) -> Iterator[None]:
    """Put ``by(name, own)`` in the place of every encoder's own method."""
    with contextlib.ExitStack() as stack:
        for name, (owner, method) in _encoders(model).items():
            before = owner.__dict__.get(method)
            owner.__dict__[method] = by(name, getattr(owner, method))
            stack.callback(_restore, owner, method, before)
        yield


def _restore(owner: Any, method: str, before: Any) -> None:
    if before is None:
        del owner.__dict__[method]
    else:
        owner.__dict__[method] = before


def _encoders(model: LoadedModel) -> dict[str, tuple[Any, str]]:
    """Name -> (object, method): the pipeline's ``encode_image``, autoencoders, and transformers' models."""
    found: dict[str, tuple[Any, str]] = {}
    if hasattr(model.pipe, "encode_image"):
        found["encode_image"] = model.pipe, "encode_image"
    for name, module in model.modules.items():
        if name in model.denoisers:
            continue
        if hasattr(module, "encode"):
            found[name] = module, "encode"
        elif isinstance(module, PreTrainedModel):
            found[name] = module, "forward"
    return found


def leaves(answer: Answer) -> Iterator[torch.Tensor]:
    """Every tensor, in order."""
    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, DiagonalGaussianDistribution):
        yield answer.parameters
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from leaves(value)
    elif isinstance(answer, (tuple, list)):
        for value in answer:
            yield from leaves(value)


def _filled(template: Answer, kept: Iterator[torch.Tensor], noise: torch.Generator) -> Answer:
    """``template`` with the tensors of ``kept`` in its tensors' places, in their dtype."""
    if isinstance(template, torch.Tensor):
        return _like(template, next(kept))
    if isinstance(template, DiagonalGaussianDistribution):
        return posteriors.Settled(_like(template.parameters, next(kept)), template, noise)
    if isinstance(template, Mapping):
        return type(template)(**{name: _filled(value, kept, noise) for name, value in template.items()})
    if isinstance(template, (tuple, list)):
        return type(template)(_filled(value, kept, noise) for value in template)
    return template


def _like(template: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    value = kept.to(template.dtype)
    return value if value.ndim == template.ndim else value.flatten(0, 1)  # of several pictures at once
