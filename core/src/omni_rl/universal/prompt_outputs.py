"""What a pipeline's ``encode_prompt`` made of some texts, by the names under which its ``__call__`` takes it back.

Nothing but the source tells these names. ``__call__`` assigns the outputs to variables that it names as its arguments
(``prompt_embeds, text_ids = self.encode_prompt(...)``, once more with ``negative_prompt_embeds``); where it does not,
``encode_prompt`` itself does, in its return statement.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import ModelError
from omni_rl.universal import capture, media_conditioning, scheduler_stand_ins
from omni_rl.universal.embedding_rows import Forms, forms

NEEDS_PLUGIN = "this model needs a plugin: omni-rl new model"

TWO_TEXTS = ["a", "a " * 36]
"""Of different length in every tokenizer and in every bucket of lengths."""

TWO_OF_ONE_LENGTH = ["a " * 36, "b " * 36]


def named_outputs(model: LoadedModel, texts: Mapping[str, list[str]], call: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``__call__`` up to the first denoiser call; what its own ``encode_prompt`` calls returned, by name.

    Raises:
        ModelError: the outputs of ``encode_prompt`` have no names, or it fails with these arguments.
    """
    with capture.first_asked(model.pipe), model.encoders_on_device():
        try:
            calls = _encode_calls(model, texts, call)
        except ZeroDivisionError:
            model.memo["least steps"] = 2
            calls = _encode_calls(model, texts, call)
    taken = inspect.signature(type(model.pipe).__call__).parameters
    found: dict[str, Any] = {}
    for index, recorded in enumerate(calls):
        values = recorded.result if isinstance(recorded.result, tuple) else (recorded.result,)
        names = _names(model, recorded, len(values), taken, second=index > 0)
        found |= {name: value for name, value in zip(names, values, strict=True) if name in taken}
    return found


def least_steps(model: LoadedModel) -> int:
    """The number of steps that the pipeline must be told at least, for it to take one."""
    return int(model.memo.get("least steps", 1))


def _encode_calls(
    model: LoadedModel, texts: Mapping[str, list[str]], call: Mapping[str, Any]
) -> list[capture.Recorded]:
    try:
        return _calls_with(model, as_taken(model, texts), call)
    except ModelError:
        if len(texts["prompt"]) > 1 or "one text" in model.memo:
            raise
        calls = _calls_with(model, _alone(texts), call)
        model.memo["one text"] = True
        return calls


def as_taken(model: LoadedModel, texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """In lists, or, where a pipeline refused one, as they are; for ``__call__``."""
    if "one text" in model.memo and len(texts["prompt"]) == 1:
        return _alone(texts)
    return {name: list(given) for name, given in texts.items()}  # some pipelines write their templates into the list


def _alone(texts: Mapping[str, list[str]]) -> dict[str, Any]:
    return {name: text for name, (text,) in texts.items()}


def _calls_with(model: LoadedModel, texts: Mapping[str, Any], call: Mapping[str, Any]) -> list[capture.Recorded]:
    arguments = {**texts, "generator": capture.discarded(), **capture.minimal(call, least_steps(model))}
    with (
        capture.leave_at_denoiser(model.denoisers),
        capture.recording_method(model.pipe, "encode_prompt") as calls,
    ):
        capture.ask(model.pipe, scheduler_stand_ins.idle(model.pipe.scheduler), **arguments)
    return calls


def text_arguments(prompts: Sequence[str], negative_prompts: Sequence[str] | None) -> dict[str, list[str]]:
    """Prompts as ``__call__`` takes them."""
    text = {"prompt": list(prompts)}
    return text if negative_prompts is None else {**text, "negative_prompt": list(negative_prompts)}


def forms_of(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> Forms:
    """How the outputs hold their rows; asked once for each set of arguments, of one text and of two.

    Prompts with media come one by one, and some pipelines take no two: rows then, which masks tell apart.
    """
    key = _forms_key(negative, call)
    if key not in model.memo:
        with capture.silent(model.pipe):  # the long text may well be truncated
            try:
                one, two = (
                    named_outputs(model, text_arguments(texts, texts if negative else None), call)
                    for texts in (TWO_TEXTS[:1], TWO_TEXTS)
                )
                model.memo[key] = forms(one, two)
            except (ModelError, AssertionError):
                if not media_conditioning.among(call):
                    raise
                model.memo[key] = Forms({})
    return model.memo[key]  # type: ignore[no-any-return]


def set_forms(model: LoadedModel, negative: bool, call: Mapping[str, Any], new: Forms) -> None:
    """What :func:`forms_of` answers for these arguments from now on."""
    model.memo[_forms_key(negative, call)] = new


def _forms_key(negative: bool, call: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        "forms of embeddings",
        negative,
        frozen(media_conditioning.without(call)),
        *sorted(media_conditioning.among(call)),
    )


def _names(
    model: LoadedModel, recorded: capture.Recorded, count: int, taken: Mapping[str, Any], second: bool
) -> tuple[str, ...]:
    """Of the ``count`` outputs of one call, as its caller or else as ``encode_prompt`` names them.

    ``second``: a further call, which encodes the negative prompts unless it was given both.
    """
    assigned = assigned_names(*recorded.caller)
    if len(assigned) == count and any(name in taken for name in assigned):
        return assigned
    negative = second and "negative_prompt" not in recorded.arguments
    if count == 1 and assigned and "prompt_embeds" in taken:
        return ("negative_prompt_embeds" if negative else "prompt_embeds",)  # there is nothing else that it can be
    names = return_names(type(model.pipe).encode_prompt)
    if len(names) != count:
        raise ModelError(
            f"{model.architecture}.encode_prompt returns {count} values but names {len(names)}: {names}", NEEDS_PLUGIN
        )
    return tuple(f"negative_{name}" if negative else name for name in names)


@lru_cache
def assigned_names(code: types.CodeType, line: int) -> tuple[str, ...]:
    """The variables to which the statement around ``line`` of ``code`` assigns: ``a, b = f()`` gives ``("a", "b")``.

    Empty when there is no such statement, no source, or something else than plain names on its left.
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
