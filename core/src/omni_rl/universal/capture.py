"""Run a pipeline's own ``__call__`` as far as it is needed, and record what happens on the way.

Objects of :mod:`omni_rl.universal.scheduler_stand_ins` take the scheduler's place. Other parts that must not act, or
whose results are wanted, are replaced for the length of a context.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
import traceback
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode

from omni_rl.errors import ModelError, RunError, UserError
from omni_rl.model.boundary import foreign, reason
from omni_rl.universal.scheduler_stand_ins import LeaveCall

NEEDS_PLUGIN = "this model needs a plugin: omni-rl new model"
"""What to do about a pipeline that the universal adapter cannot use."""

SEE_CALL = "see rollout.call"
"""What to do about arguments that a pipeline does not take."""


class CallRefusedError(ModelError):
    """The pipeline raised a ValueError, which is how pipelines refuse arguments."""


class CallFailedError(ModelError):
    """The pipeline's own code raised something else than a ValueError; that is the ``__cause__``."""


def run_call(pipe: DiffusionPipeline, scheduler: Any, **arguments: Any) -> Any:
    """Run ``__call__`` with ``scheduler`` in place. Returns its result, or None when it was left early.

    The pipeline's warnings are shown only where it is given texts: it may say that it truncates them.

    Raises:
        CallRefusedError: the pipeline refuses its arguments.
        CallFailedError: in place of whatever else the pipeline raises, except where memory ran out.
    """
    warnings = contextlib.nullcontext() if arguments.get("prompt") else silent(pipe)
    with replaced(pipe, scheduler=scheduler), contextlib.suppress(LeaveCall), warnings:
        try:
            return undecorated_call(pipe)(**_nested(pipe, arguments))
        except (UserError, RunError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise _in_one_sentence(pipe, error) from error
    return None


def _nested(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with the images of the one prompt in a further list where a pipeline takes a list for each."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    lists = {n for n, p in parameters.items() if re.search(r"list\[list\[.*image", str(p.annotation), re.I)}
    nested = {n: [v if isinstance(v, list) else [v]] for n, v in arguments.items() if n in lists and _is_media(v)}
    return {**arguments, **nested}


def _is_media(value: Any) -> bool:
    return isinstance(value[0] if isinstance(value, list) and value else value, Image.Image)


def _in_one_sentence(pipe: DiffusionPipeline, error: Exception) -> ModelError:
    """What the pipeline raised, and the line of its file.

    Python raises a ValueError too where a value has not as many parts as are unpacked; only its line says more.
    """
    name, unpacks = type(pipe).__name__, "values to unpack" in str(error)
    if isinstance(error, ValueError) and not unpacks:
        why = reason(error).removeprefix("ValueError: ")
        return CallRefusedError(f"{name} refuses its call: {why}", SEE_CALL)
    return CallFailedError(f"{name} fails: {reason(error)}{_line_of(pipe, error)}", SEE_CALL)


def _line_of(pipe: DiffusionPipeline, error: Exception) -> str:
    """The last line of the pipeline's own file in the traceback."""
    own = inspect.getsourcefile(type(pipe))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f" (at {Path(own).name}:{lines[-1]})" if own and lines else ""


def undecorated_call(pipe: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline's ``__call__`` without its ``torch.no_grad`` decorator, bound to ``pipe``."""
    function = type(pipe).__call__
    return getattr(function, "__wrapped__", function).__get__(pipe)  # type: ignore[no-any-return]


def one_step(call: Mapping[str, Any], steps: int = 1) -> dict[str, Any]:
    """Arguments for a call that takes one step and decodes nothing.

    Args:
        steps: the number of steps that the pipeline is told; some divide by one less.
    """
    return {**call, "num_inference_steps": steps, "output_type": "latent", "return_dict": False}


def throwaway_generator(seed: int = 0) -> torch.Generator:
    """For noise that a pipeline draws before it can be stopped, and that is not used."""
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give an object other attributes for the length of the context.

    Through ``__dict__``: setting an attribute of a pipeline would rewrite its configuration on every call.
    """
    before = {name: owner.__dict__[name] for name in attributes if name in owner.__dict__}
    owner.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes.keys() - before.keys():
            del owner.__dict__[name]
        owner.__dict__.update(before)


@contextlib.contextmanager
def silent(pipe: DiffusionPipeline) -> Iterator[None]:
    """Without the pipeline's warnings, which are about arguments that no user gave."""
    logger = logging.getLogger(type(pipe).__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def blaming_arguments(pipe: DiffusionPipeline) -> Iterator[None]:
    """Around the first calls with given arguments: what fails in them fails because of the arguments.

    Raises:
        ModelError: in place of whatever is raised, except where memory ran out.
    """
    start = f"{type(pipe).__name__} fails with these arguments"
    try:
        with foreign(start, SEE_CALL):
            yield
    except CallFailedError as error:
        raise ModelError(error.what.replace(f"{type(pipe).__name__} fails", start, 1), error.hint) from error


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
    """Leave the pipeline when it first calls a denoiser: everything before that has been computed.

    Yields a list that receives the positional and the keyword arguments of that call.
    """
    inputs: list[Any] = []

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.extend([args, kwargs])
        raise LeaveCall

    before_others = {"prepend": True, "with_kwargs": True}  # no other hook may count on a forward that does not come
    handles = [d.register_forward_pre_hook(leave, **before_others) for d in denoisers.values()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def leave_after(pipe: DiffusionPipeline, name: str) -> Iterator[list[Any]]:
    """Leave the pipeline when one of its methods has returned. Yields a list that receives what it returned."""
    method = getattr(pipe, name)
    results: list[Any] = []

    def leave(*args: Any, **kwargs: Any) -> None:
        results.append(method(*args, **kwargs))
        raise LeaveCall

    with replaced(pipe, **{name: leave}):
        yield results


@contextlib.contextmanager
def denoisers_silenced(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Denoisers return zeros at no cost: for decoding, where the pipeline insists on a step whose result is not used.

    One tensor for each stream: diffusers calls their inputs ``hidden_states``, ``audio_hidden_states`` and so on. No
    hook of a denoiser is called: with sharded weights, other ranks would take part in a forward that does not come.
    """
    with contextlib.ExitStack() as stack:
        for denoiser in denoisers.values():
            without: dict[str, Any] = {"_forward_pre_hooks": OrderedDict(), "_forward_hooks": OrderedDict()}
            stack.enter_context(replaced(denoiser, forward=_silent(denoiser.forward), **without))
        yield


def samples_of(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The noisy samples among a denoiser's arguments: its ``hidden_states``, or else its first argument."""
    if args:
        return args[0]
    first = next(iter(inspect.signature(forward).parameters))
    return kwargs["hidden_states" if "hidden_states" in kwargs else first]


def _silent(forward: Callable[..., Any]) -> Callable[..., Any]:
    def zeros(*args: Any, **kwargs: Any) -> _Zeros:
        others = [v for n, v in kwargs.items() if n.endswith("_hidden_states") and "encoder" not in n]
        return _Zeros(_zeros_like(x) for x in (samples_of(forward, args, kwargs), *others))

    return zeros


class _Zeros(tuple[Any, ...]):
    """What a denoiser returns, whether the pipeline takes its ``[0]`` or its ``.sample``."""

    @property
    def sample(self) -> Any:
        """The first."""
        return self[0]


def _zeros_like(x: Any) -> Any:
    """Some denoisers take a list of samples in place of a batch, or for each sample a list whose last entry it is."""
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

    with replaced(pipe, **{name: recorded}):
        yield calls


@contextlib.contextmanager
def embeddings_as(pipe: DiffusionPipeline, dtype: torch.dtype) -> Iterator[None]:
    """Make ``encode_prompt`` return ``dtype``, in which embeddings that are passed back reach fp32 masters too."""
    encode = pipe.encode_prompt

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def encode_and_cast(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        return tuple(map(cast, result)) if isinstance(result, tuple) else cast(result)

    with replaced(pipe, encode_prompt=encode_and_cast):
        yield
