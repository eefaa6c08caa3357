"""Reads pydantic models: the keys of a section, the type at a key path, and a type in plain words for messages."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from omni_rl.config.yaml_file import KeyPath

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "text"),
    Path: ("a path", "paths"),
    type(None): ("null", "null"),
}


UNDECLARED: Any = object()
"""Stands for the type at a path that the model does not declare."""


def options(annotation: Any) -> list[Any]:
    """The alternatives of a type: ``Annotated`` is unwrapped, unions are split."""
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in options(part)]
    return [annotation]


def is_model(option: Any) -> bool:
    """Whether a type is a section."""
    return isinstance(option, type) and issubclass(option, BaseModel)


def names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as users write them (by alias)."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def annotation_at(annotation: Any, path: KeyPath) -> Any:
    """The type at ``path`` inside a value of type ``annotation``, or ``UNDECLARED``."""
    for key in path:
        annotation = next((inner for option in options(annotation) for inner in _inside(option, key)), UNDECLARED)
    return annotation


def _inside(option: Any, key: str | int) -> Iterator[Any]:
    arguments = get_args(option)
    if is_model(option) and key in names(option):
        yield names(option)[str(key)].annotation
    elif get_origin(option) is dict:
        yield arguments[1]
    elif get_origin(option) is list:
        yield arguments[0]
    elif get_origin(option) is tuple and isinstance(key, int):
        yield arguments[key] if key < len(arguments) and Ellipsis not in arguments else arguments[0]


def model_at(root: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The model of the section at ``path``; None where there is no section."""
    return next((option for option in options(annotation_at(root, path)) if is_model(option)), None)


def choices(annotation: Any) -> list[Any]:
    """The values of a type's ``Literal`` alternatives."""
    return [value for option in options(annotation) if get_origin(option) is Literal for value in get_args(option)]


def described(annotation: Any) -> str:
    """A type in plain words: ``a list of text, or text``."""
    words = [_described(option) for option in options(annotation) if option is not type(None)]
    return ", or ".join(dict.fromkeys(words))


def _described(option: Any) -> str:
    origin, arguments = get_origin(option), get_args(option)
    if option in _WORDS:
        return _WORDS[option][0]
    if origin is Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    if origin in (list, tuple) or option in (list, tuple):
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    if is_model(option) or origin is dict or option is dict:
        return "a section (indented lines of key: value)"
    return getattr(option, "__name__", str(option))


def _plural(annotation: Any) -> str:
    return " or ".join(_WORDS[option][1] if option in _WORDS else "entries" for option in options(annotation))


def example(key: str, field: FieldInfo) -> str:
    """A line that sets a required key: ``path: ./my-pipeline``, ``data: {path: prompts.txt}``."""
    inner = next((option for option in options(field.annotation) if is_model(option)), None)
    if field.examples:
        return f"{key}: {field.examples[0]}"
    if inner is not None:
        lines = [example(name, sub) for name, sub in names(inner).items() if sub.is_required()]
        return f"{key}: {{{', '.join(lines)}}}"
    return f"{key}: <{described(field.annotation)}>"
