"""The outputs of a pipeline's ``encode_prompt``, by the names under which its ``__call__`` takes them back.

Only the source tells these names. ``__call__`` assigns the outputs to variables that it names as its arguments
(``prompt_embeds, text_ids = self.encode_prompt(...)``, once more with ``negative_prompt_embeds``); where it does not,
``encode_prompt`` itself names them, in its return statement.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.errors import ModelError
from omni_rl.universal import capture, scheduler_stand_ins
from omni_rl.universal.capture import NEEDS_PLUGIN


@dataclass
class Needs:
    """What a pipeline turned out to need, whatever its arguments.

    Attributes:
        least_steps: the number of steps that it must be told at least, for it to take one.
        one_text: it refuses a list of one prompt, and takes the prompt itself.
    """

    least_steps: int = 1
    one_text: bool = False


_NEEDS = Cache[None, Needs]()
_SIDE = re.compile(r"(negative_)?prompt_\d+")


def needs_of(model: LoadedModel) -> Needs:
    """What is known of them so far."""
    return _NEEDS.get(model, None, Needs)


def text_arguments(prompts: Sequence[str], negative_prompts: Sequence[str] | None) -> dict[str, list[str]]:
    """Prompts under the names of ``__call__``'s arguments."""
    texts = {"prompt": list(prompts)}
    return texts if negative_prompts is None else {**texts, "negative_prompt": list(negative_prompts)}


def side_texts(call: Mapping[str, Any], rows: int) -> dict[str, list[str]]:
    """``prompt_2`` and its like among the arguments: one text for all prompts, repeated for each of ``rows``.

    Pipelines take as many of them as prompts.
    """
    return {name: [text] * rows for name, text in call.items() if _SIDE.fullmatch(name) and isinstance(text, str)}


def as_taken(model: LoadedModel, texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Texts as ``__call__`` takes them: in lists, or a single one as it is where the pipeline refuses a list of one."""
    if needs_of(model).one_text and len(texts["prompt"]) == 1:
        return _alone(texts)
    return {name: list(values) for name, values in texts.items()}  # some pipelines write templates into the list


def _alone(texts: Mapping[str, list[str]]) -> dict[str, Any]:
    return {name: text for name, (text,) in texts.items()}


def named_outputs(model: LoadedModel, texts: Mapping[str, list[str]], call: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``__call__`` up to the first denoiser call. Returns what its own ``encode_prompt`` calls returned, by name.

    Raises:
        ModelError: the outputs of ``encode_prompt`` have no names, or it fails with these arguments.
    """
    with capture.blaming_arguments(model.pipe), model.encoders_on_device():
        try:
            calls = _encode_calls(model, texts, call)
        except capture.CallFailedError as error:
            if not isinstance(error.__cause__, ZeroDivisionError):
                raise
            needs_of(model).least_steps = 2
            calls = _encode_calls(model, texts, call)
    outputs: dict[str, Any] = {}
    for index, recorded in enumerate(calls):
        values = recorded.result if isinstance(recorded.result, tuple) else (recorded.result,)
        names = _names(model, recorded, len(values), second=index > 0)
        outputs |= {name: value for name, value in zip(names, values, strict=True) if model.takes(name)}
    return outputs


def _encode_calls(
    model: LoadedModel, texts: Mapping[str, list[str]], call: Mapping[str, Any]
) -> list[capture.Recorded]:
    try:
        return _calls_with(model, as_taken(model, texts), call)
    except ModelError as error:
        refused = not isinstance(error, capture.CallFailedError)
        if not refused or len(texts["prompt"]) > 1 or needs_of(model).one_text:
            raise
        calls = _calls_with(model, _alone(texts), call)
        needs_of(model).one_text = True
        return calls


def _calls_with(model: LoadedModel, texts: Mapping[str, Any], call: Mapping[str, Any]) -> list[capture.Recorded]:
    alone = isinstance(texts["prompt"], str)
    arguments = {
        **texts,
        "generator": capture.throwaway_generator(),
        **capture.one_step(call, needs_of(model).least_steps),
        **({} if alone else side_texts(call, len(texts["prompt"]))),
    }
    with capture.leave_at_denoiser(model.denoisers), capture.recording_method(model.pipe, "encode_prompt") as calls:
        capture.run_call(model.pipe, scheduler_stand_ins.never_stepped(model.pipe.scheduler), **arguments)
    return calls


def _names(model: LoadedModel, recorded: capture.Recorded, count: int, second: bool) -> tuple[str, ...]:
    """The names that the caller, or else ``encode_prompt`` itself, gives to the ``count`` outputs of one call.

    Args:
        second: this is not the first call: it encodes the negative prompts, unless it was given both.
    """
    assigned = assigned_names(*recorded.caller)
    if len(assigned) == count and any(model.takes(name) for name in assigned):
        return assigned
    negative = second and "negative_prompt" not in recorded.arguments
    if count == 1 and assigned and model.takes("prompt_embeds"):
        return ("negative_prompt_embeds" if negative else "prompt_embeds",)  # the only thing that it can be
    names = return_names(type(model.pipe).encode_prompt)
    if len(names) != count:
        raise ModelError(
            f"{model.architecture}.encode_prompt returns {count} values but names {len(names)}: {names}", NEEDS_PLUGIN
        )
    return tuple(f"negative_{name}" if negative else name for name in names)


@lru_cache
def assigned_names(code: types.CodeType, line: int) -> tuple[str, ...]:
    """The variables that the statement around ``line`` of ``code`` assigns: ``a, b = f()`` gives ``("a", "b")``.

    Empty when there is no such statement or no source, or when it assigns to anything but variables.
    """
    try:
        source, first = inspect.getsourcelines(code)
    except OSError:
        return ()
    tree = ast.parse(textwrap.dedent("".join(source)))
    at = line - first + 1
    around = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and n.lineno <= at <= (n.end_lineno or 0)]
    if not around:
        return ()
    nodes = _elements(around[-1].targets[0])
    return tuple(n.id for n in nodes if isinstance(n, ast.Name)) if all(isinstance(n, ast.Name) for n in nodes) else ()


@lru_cache
def return_names(function: Any) -> tuple[str, ...]:
    """The variable names in a function's last return statement: ``return a, b.to(c)`` gives ``("a", "b")``.

    Raises:
        ModelError: the statement returns something other than variables, or there is no source to read.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError as error:
        raise ModelError(
            f"{function.__qualname__} has no source that tells its outputs' names", NEEDS_PLUGIN
        ) from error
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)][-1:]
    nodes = [n for value in returned if value is not None for n in _elements(value)]
    names = tuple(name for name in map(_variable, nodes) if name)
    if not names or len(names) < len(nodes):
        what = f"{function.__qualname__} does not return plain names, so its outputs cannot be passed back"
        raise ModelError(what, NEEDS_PLUGIN)
    return names


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _variable(node: ast.expr) -> str | None:
    """The variable in ``name``, ``name if ... else None`` and ``name.to(...)``."""
    if isinstance(node, ast.IfExp):
        return _variable(node.body)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _variable(node.func.value)
    return node.id if isinstance(node, ast.Name) else None
