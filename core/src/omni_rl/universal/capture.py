"""How the universal adapter asks a pipeline a question: run its own ``__call__`` up to the answer, then leave.

Stand-ins (:mod:`omni_rl.universal.scheduler_stand_ins`) take the scheduler's place. Other parts that must not act, or
whose doings are of interest, are replaced for the length of a context.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.overrides import TorchFunctionMode

from omni_rl.errors import ModelError, UserError
from omni_rl.universal.scheduler_stand_ins import Answered


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
def leave_at_denoiser(denoisers: Mapping[str, nn.Module]) -> Iterator[list[Any]]:
    """Leave the pipeline when it first calls a denoiser: everything before it has been computed.

    Yields what it is called with.
    """
    given: list[Any] = []

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.extend([args, kwargs])
        raise Answered

    handles = [d.register_forward_pre_hook(leave, with_kwargs=True) for d in denoisers.values()]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def leave_after(pipe: DiffusionPipeline, name: str) -> Iterator[list[Any]]:
    """Leave the pipeline when one of its methods has returned; what it returned."""
    method = getattr(pipe, name)
    results: list[Any] = []

    def leave(*args: Any, **kwargs: Any) -> None:
        results.append(method(*args, **kwargs))
        raise Answered

    pipe.__dict__[name] = leave
    try:
        yield results
    finally:
        del pipe.__dict__[name]


@contextlib.contextmanager
def denoisers_silenced(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Denoisers answer zeros at no cost: for decoding, where the pipeline insists on one step that is not used.

    One answer for each stream: diffusers calls their inputs ``hidden_states``, ``audio_hidden_states`` and so on.
    """
    for denoiser in denoisers.values():
        denoiser.__dict__["forward"] = _silent(denoiser.forward)
    try:
        yield
    finally:
        for denoiser in denoisers.values():
            del denoiser.__dict__["forward"]


def samples_of(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a denoiser is asked about: its ``hidden_states``, or else its first argument."""
    if args:
        return args[0]
    return (
        kwargs["hidden_states"]
        if "hidden_states" in kwargs
        else kwargs[next(iter(inspect.signature(forward).parameters))]
    )


def _silent(forward: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> _Silence:
        others = [v for n, v in kwargs.items() if n.endswith("_hidden_states") and "encoder" not in n]
        return _Silence(_zeros(x) for x in (samples_of(forward, args, kwargs), *others))

    return answer


class _Silence(tuple[Any, ...]):
    """What a denoiser returns, whether the pipeline takes its ``[0]`` or its ``.sample``."""

    @property
    def sample(self) -> Any:
        """The first."""
        return self[0]


def _zeros(x: Any) -> Any:
    """Some denoisers take a list of samples in place of a batch, or for each a list that it ends."""
    if isinstance(x, list):
        return [torch.zeros_like(each[-1] if isinstance(each, list) else each) for each in x]
    return torch.zeros_like(x)


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


_OF_ARGUMENTS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    TypeError,
)


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
    except _OF_ARGUMENTS as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise ModelError(f"{type(pipe).__name__} fails with these arguments: {why}", "see rollout.call") from error


def minimal(call: Mapping[str, Any], steps: int = 1) -> dict[str, Any]:
    """The arguments of a call that is to take one step and decode nothing.

    ``steps``: what the pipeline is told; some divide by all but the first.
    """
    return {**call, "num_inference_steps": steps, "output_type": "latent", "return_dict": False}


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
