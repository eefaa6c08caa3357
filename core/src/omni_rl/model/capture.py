"""How the universal adapter asks a pipeline a question: run its own ``__call__`` up to the answer, then leave.

Three stand-ins take the scheduler's place. All of them answer attribute look-ups from the pipeline's own scheduler, so
that a pipeline that reads ``scheduler.config`` or inspects ``set_timesteps`` sees what it expects. Rollout engines that
run a pipeline's own loop derive theirs from ``StandIn`` too.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.overrides import TorchFunctionMode

from omni_rl.errors import ModelError, UserError
from omni_rl.types import SigmaTable


class Answered(BaseException):
    """Leaves a pipeline's ``__call__`` once the answer is known. A BaseException, so no pipeline swallows it."""


class StandIn:
    """Delegates everything it does not define to the pipeline's own scheduler."""

    order = 1

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The scheduler's, for pipelines that ask ``isinstance(self.scheduler, ...)``."""
        return type(self._scheduler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_scheduler"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self  # pipelines with several streams copy their scheduler; the copies must record in one place

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Pipelines announce index 0; there is no table here to index."""

    def scale_model_input(self, sample: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Flow matching does not scale its input."""
        return sample


class OneStep(StandIn):
    """A schedule of exactly one step at timestep ``t``; records what is handed to ``step``, then leaves.

    ``t`` is 0-d, or (B,) for the vector call: the pipeline's loop over timesteps then sees one (B,) timestep.

    Attributes:
        velocities, samples: per stream, in the order in which the pipeline steps them.
    """

    def __init__(
        self, scheduler: Any, t: torch.Tensor, streams: int | None, instead: list[torch.Tensor] | None = None
    ) -> None:
        super().__init__(scheduler)
        self._t = t
        self._streams = streams
        self._instead = instead
        self.velocities: list[torch.Tensor] = []
        self.samples: list[torch.Tensor] = []

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """Ignore what the pipeline asks for: the table is this step."""
        t = self._t.to(device) if device is not None else self._t
        self.timesteps = t[None]  # (1,) or (1, B)
        sigma = t / self._scheduler.config.num_train_timesteps
        self.sigmas = torch.stack([sigma, torch.zeros_like(sigma)])  # (2,) or (2, B): float() of a vector must fail
        self.num_inference_steps = 1

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor]:
        """Record, and leave once every stream was stepped (never, when ``streams`` is None: then the call returns)."""
        self.velocities.append(model_output)
        self.samples.append(sample)
        if len(self.velocities) == self._streams:
            raise Answered
        return (sample if self._instead is None else self._instead[len(self.samples) - 1],)


class Table(StandIn):
    """The pipeline's own scheduler, left alone until its first ``step``: by then its table is set."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(copy.deepcopy(scheduler))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Not needed: no step is taken."""

    def step(self, *_: Any, **__: Any) -> None:
        """The table is complete."""
        raise Answered


class Euler(StandIn):
    """Plain Euler steps over a given table: the pipeline's own loop with its own schedule and no solver of its own.

    Latents are kept here in fp32 from ``start`` on, because a pipeline in bf16 rounds its own at every step; latents
    that the pipeline changes between two steps (frozen elements) count as it changed them.

    Attributes:
        latents: the current latents of each stream, fp32, in stepping order.
    """

    def __init__(self, scheduler: Any, table: SigmaTable, start: Sequence[torch.Tensor]) -> None:
        super().__init__(scheduler)
        self._table = table
        self._calls = 0
        self.latents = [x.float() for x in start]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """The table is given."""
        self.timesteps = self._table.timesteps.to(device)
        self.sigmas = self._table.sigmas
        self.num_inference_steps = len(self.timesteps)

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor]:
        """x + (sigma' - sigma) v; streams take turns."""
        index, stream = divmod(self._calls, len(self.latents))
        self._calls += 1
        kept = self.latents[stream]
        x = kept if torch.equal(kept.to(sample.dtype), sample) else sample.float()
        self.latents[stream] = x - (self.sigmas[index] - self.sigmas[index + 1]).item() * model_output.float()
        return (self.latents[stream].to(sample.dtype),)


@contextlib.contextmanager
def scheduler_replaced(pipe: DiffusionPipeline, scheduler: Any) -> Iterator[None]:
    """Put ``scheduler`` in the pipeline's place for one for the length of the context."""
    own = pipe.scheduler
    pipe.__dict__["scheduler"] = scheduler  # not setattr: that would rewrite the pipeline's config on every call
    try:
        yield
    finally:
        pipe.__dict__["scheduler"] = own


@contextlib.contextmanager
def drawn_shapes() -> Iterator[list[tuple[int, ...]]]:
    """Record the shape of every tensor that ``torch.randn`` draws."""
    shapes: list[tuple[int, ...]] = []

    class Recording(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.randn:
                shapes.append(tuple(result.shape))
            return result

    with Recording():
        yield shapes


@contextlib.contextmanager
def leave_at_denoiser(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Leave the pipeline when it first calls a denoiser: everything before it has been computed."""

    def leave(*_: Any, **__: Any) -> None:
        raise Answered

    handles = [d.register_forward_pre_hook(leave) for d in denoisers.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def denoisers_silenced(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Denoisers answer zeros at no cost: for decoding, where the pipeline insists on one step that is not used.

    One answer for each stream: diffusers calls their inputs ``hidden_states``, ``audio_hidden_states`` and so on.
    """

    def silent(hidden_states: Any, *_: Any, **kwargs: Any) -> tuple[Any, ...]:
        others = [v for n, v in kwargs.items() if n.endswith("_hidden_states") and "encoder" not in n]
        return tuple(_zeros(x) for x in (hidden_states, *others))

    for denoiser in denoisers.values():
        denoiser.__dict__["forward"] = silent
    try:
        yield
    finally:
        for denoiser in denoisers.values():
            del denoiser.__dict__["forward"]


def _zeros(x: Any) -> Any:
    """Some denoisers take a list of samples in place of a batch."""
    return [torch.zeros_like(each) for each in x] if isinstance(x, list) else torch.zeros_like(x)


@dataclass(frozen=True)
class Recorded:
    """One call of a pipeline method.

    Attributes:
        caller: the code that called it, and the line in its file.
        arguments: bound to the method's parameters.
    """

    caller: tuple[types.CodeType, int]
    arguments: dict[str, Any]
    result: Any


@contextlib.contextmanager
def recording_method(pipe: DiffusionPipeline, name: str) -> Iterator[list[Recorded]]:
    """Record every call of a pipeline method."""
    method = getattr(pipe, name)
    signature = inspect.signature(method)
    calls: list[Recorded] = []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1)
        result = method(*args, **kwargs)
        bound = dict(signature.bind(*args, **kwargs).arguments)
        calls.append(Recorded((caller.f_code, caller.f_lineno), bound, result))
        return result

    pipe.__dict__[name] = recorded
    try:
        yield calls
    finally:
        del pipe.__dict__[name]


@contextlib.contextmanager
def embeddings_as(pipe: DiffusionPipeline, dtype: torch.dtype) -> Iterator[None]:
    """What ``encode_prompt`` returns, in ``dtype``: as embeddings that are passed back reach fp32 masters."""
    encode = pipe.encode_prompt

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def encode_and_cast(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        return tuple(map(cast, result)) if isinstance(result, tuple) else cast(result)

    pipe.__dict__["encode_prompt"] = encode_and_cast
    try:
        yield
    finally:
        del pipe.__dict__["encode_prompt"]


def undecorated_call(pipe: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline's ``__call__`` without its ``torch.no_grad`` decorator, bound to ``pipe``."""
    function = type(pipe).__call__
    return getattr(function, "__wrapped__", function).__get__(pipe)  # type: ignore[no-any-return]


@contextlib.contextmanager
def first_asked(pipe: DiffusionPipeline) -> Iterator[None]:
    """The first questions with given arguments: what fails in them fails because of the arguments.

    Raises:
        ModelError: in place of whatever the pipeline raised, but for a lack of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, LookupError, AttributeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise ModelError(f"{type(pipe).__name__} fails with these arguments: {why}", "see rollout.call") from error


def minimal(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that is to take one step and decode nothing."""
    return {**call, "num_inference_steps": 1, "output_type": "latent", "return_dict": False}


def discarded(seed: int = 0) -> torch.Generator:
    """For latents that a pipeline draws before it can be stopped: nothing but their shape is looked at."""
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def silent(pipe: DiffusionPipeline) -> Iterator[None]:
    """Without the pipeline's warnings, which are about arguments that no user gave."""
    logger = logging.getLogger(type(pipe).__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def ask(pipe: DiffusionPipeline, scheduler: Any, **arguments: Any) -> Any:
    """Run ``__call__`` with ``scheduler`` in place. Returns its result, or None when it was left early.

    The pipeline may warn about texts (that it truncates them), and about nothing else.

    Raises:
        ModelError: the pipeline refuses its arguments.
    """
    heard = contextlib.nullcontext() if arguments.get("prompt") else silent(pipe)
    with scheduler_replaced(pipe, scheduler), contextlib.suppress(Answered), heard:
        try:
            return undecorated_call(pipe)(**arguments)
        except UserError:
            raise
        except ValueError as error:
            why = str(error).partition("\n")[0][:200]
            raise ModelError(f"{type(pipe).__name__} refuses its call: {why}", "see rollout.call") from error
    return None
