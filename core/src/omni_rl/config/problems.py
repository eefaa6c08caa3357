"""Turns the errors in a configuration into plain messages, and reports all of them together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from omni_rl.config import fields, foreign_keys
from omni_rl.config.layers import SetBy, Tree, dotted
from omni_rl.config.yaml_file import AmbiguousWord, KeyPath
from omni_rl.contracts.schema import Config
from omni_rl.errors import ConfigError, PluginError, UserError, did_you_mean

LARGEST = 1e38
"""Larger numbers become infinite in fp32."""

SHOWN = 8
"""At most this many errors are listed in one message."""

_EXPECTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "text",
    "path_type": "a path",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a section (indented lines of key: value)"),
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "string_too_short": "text of length {min_length} or more",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}

M = TypeVar("M", bound=BaseModel)


def raise_all(errors: Iterable[UserError], file: str) -> None:
    """Raise a single error as it is, several errors as one error that lists them."""
    unique = list({str(error): error for error in errors}.values())
    if not unique:
        return
    if len(unique) == 1:
        raise unique[0]
    hints: set[str | None] = {None}
    lines = []
    for error in unique[:SHOWN]:
        lines += ["\n    ".join((error.what if error.hint in hints else str(error)).splitlines())]
        hints.add(error.hint)
    more = [f"and {len(unique) - SHOWN} more"] if len(unique) > SHOWN else []
    kinds = {type(error) for error in unique}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    raise kind(f"{len(unique)} problems in {file}:\n  " + "\n  ".join(lines + more))


def validate(
    model: type[M], data: Mapping[str, Any], tree: Tree, prefix: KeyPath = (), siblings: Iterable[str] = ()
) -> tuple[M | None, list[UserError]]:
    """Validate the section at ``prefix`` against ``model``.

    Args:
        model: the core schema, or a plugin's ``Config``.
        data: the keys of ``model``. ``siblings`` are the section's other keys, which another model validates.
        tree: records which layer set each key.

    Returns:
        The validated section (None when it is invalid) and all errors in it.
    """
    try:
        valid, errors = model.model_validate(plain(data)), {}
    except ValidationError as error:
        valid, errors = None, _errors_of(error, model, data, tree, prefix, siblings)
    for path, value in leaves(data):
        misread = None if path in errors else _misread(model, path, value, tree, prefix)
        if misread is not None:
            valid, errors = None, {**errors, path: misread}
    return valid, list(errors.values())


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value that is not a section or a list, with its path."""
    if isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def plain(value: Any) -> Any:
    """A copy of nested data with every :class:`AmbiguousWord` as plain text."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, AmbiguousWord) else value


def _misread(model: type[BaseModel], path: KeyPath, value: Any, tree: Tree, prefix: KeyPath) -> UserError | None:
    """Errors that pydantic does not report: ``steps: true`` (it accepts 1), and ``flag: no`` for a key of any type."""
    annotation = fields.annotation_at(model, path)
    accepted, here = fields.options(annotation), (*prefix, *path)
    large = None if isinstance(value, bool) else _too_large(value)
    if large is not None:
        return wrong_value(tree, here, large, value)
    if isinstance(value, bool) and bool not in accepted and (int in accepted or float in accepted):
        return wrong_value(tree, here, fields.described(annotation), value)
    if isinstance(value, AmbiguousWord) and Any in accepted:
        hint = f"write true or false, or '{value}' in quotes if it is text"
        return at(tree, here, f"{dotted(here)}: {value} could be text or a boolean", hint)
    return None


def _too_large(value: Any) -> str | None:
    """What to give in place of a number that plugins cannot compute with, or None."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number of at most 63 bits"
    if isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST:
        return f"a number of at most {LARGEST:.1g}, as fp32 can hold"
    return None


def _errors_of(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    tree: Tree,
    prefix: KeyPath,
    siblings: Iterable[str],
) -> dict[KeyPath, UserError]:
    """pydantic's errors, one per path; its errors for the alternatives of a union become one error."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        path, key = _written(detail["loc"], data), detail["loc"][-1] if detail["loc"] else None
        missing = detail["type"] == "missing" and isinstance(key, str)
        grouped.setdefault((*path, str(key)) if missing else path, []).append(detail)
    errors: dict[KeyPath, UserError] = {}
    for path, details in grouped.items():
        here, owner = (*prefix, *path), fields.model_at(model, path[:-1]) or model
        if details[0]["type"] == "missing" and isinstance(details[0]["loc"][-1], str):
            errors[path] = _missing(tree, here, owner)
        elif details[0]["type"] == "extra_forbidden":
            errors[path] = unknown_key(tree, here, [*fields.names(owner), *([] if path[1:] else siblings)])
        else:
            errors[path] = _wrong(tree, here, details, len(path), fields.annotation_at(model, path))
    return {path: error for path, error in errors.items() if not any(path[:n] in errors for n in range(1, len(path)))}


def _written(loc: Sequence[str | int], data: Any) -> KeyPath:
    """The part of pydantic's ``loc`` that exists in the data; the rest names alternatives of a union."""
    path: KeyPath = ()
    for key in loc:
        known = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, (list, tuple)) else ()
        if key not in known:
            break
        path, data = (*path, key), data[key]
    return path


def _wrong(tree: Tree, path: KeyPath, details: list[ErrorDetails], depth: int, annotation: Any) -> UserError:
    detail = details[0]
    context = detail.get("ctx", {})
    if detail["type"] in ("value_error", "assertion_error"):  # a validator's own message
        return at(tree, path, f"{dotted(path)}: {context['error']}")
    if len(details) > 1 or len(detail["loc"]) > depth:
        return wrong_value(tree, path, fields.described(annotation), tree.get(path))
    if detail["type"] not in _EXPECTED:
        return at(tree, path, f"{dotted(path)} is {shown(detail['input'])}: {detail['msg']}")
    limits = {
        key: int(limit) if isinstance(limit, float) and limit.is_integer() else limit for key, limit in context.items()
    }
    expected = _EXPECTED[detail["type"]].format(**limits)
    return wrong_value(tree, path, expected, detail["input"], fields.choices(annotation))


def wrong_value(tree: Tree, path: KeyPath, expected: str, value: Any, choices: Sequence[Any] = ()) -> UserError:
    """``config.yaml:3:5: train.lr takes a number, not 'fast'``."""
    near = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    return at(tree, path, f"{dotted(path)} takes {expected}, not {shown(value)}{'.' + near if near else ''}")


def shown(value: Any) -> str:
    """A value as text for a message, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null (nothing)", True: "true", False: "false"}[value]
    try:
        text = repr(str(value[:100]) if isinstance(value, str) else plain(value))
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _missing(tree: Tree, path: KeyPath, owner: type[BaseModel]) -> UserError:
    section, key = path[:-1], str(path[-1])
    field = fields.names(owner)[key]
    what = f"{dotted(section)} needs the key '{key}'" if section else f"the section '{key}' is missing"
    why = f" ({field.description})" if field.description else ""
    return at(tree, section, what + why, f"for example: {fields.example(key, field)}")


def unknown_key(tree: Tree, path: KeyPath, known: Iterable[str]) -> UserError:
    """The error for an unknown key: names the most similar known key, or the section that has a key of that name."""
    key, known = str(path[-1]), list(known)
    foreign = foreign_keys.answer(path)
    if foreign is not None:
        return at(tree, path, f"unknown key '{dotted(path)}'", foreign)
    near = did_you_mean(key, known)
    elsewhere = [dotted(other) for other in _core_keys() if other[-1] == key and other[:-1] != path[:-1]]
    hint = None if near or elsewhere else f"{dotted(path[:-1]) or 'a configuration'} takes: {', '.join(known)}"
    where = f" Did you mean {elsewhere[0]!r}?" if elsewhere and not near else near
    return at(tree, path, f"unknown key '{dotted(path)}'.{where}", hint)


def _core_keys(model: type[BaseModel] = Config, path: KeyPath = ()) -> Iterator[KeyPath]:
    for key, field in fields.names(model).items():
        yield (*path, key)
        for option in fields.options(field.annotation):
            if fields.is_model(option):
                yield from _core_keys(option, (*path, key))


def at(tree: Tree, path: KeyPath, what: str, hint: str | None = None, kind: type[UserError] = ConfigError) -> UserError:
    """An error that starts with the place that set ``path``; a PluginError if a plugin's ``defaults`` set it."""
    source: SetBy = tree.source(path)
    return (PluginError if source.by == "plugin" else kind)(f"{source.place}: {what}", hint)
