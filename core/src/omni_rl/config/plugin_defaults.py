"""Calls the ``defaults`` hooks of a run's plugins, before any plugin is instantiated.

In a plugin class, ``defaults`` must be a ``@staticmethod`` or ``@classmethod``: an instance needs its options, which
the defaults may still change. Defaults never switch on an optional section that the user's configuration does not have:
``{"model": {"lora": {"targets": [...]}}}`` applies only if the configuration has the section ``model.lora``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from omni_rl.config import fields
from omni_rl.config.layers import Tree, dotted
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Config
from omni_rl.errors import PluginError, UserError
from omni_rl.plugins.checks import described, implementations
from omni_rl.plugins.contract import Layer

CHOICES: tuple[KeyPath, ...] = (
    ("model", "path"),
    ("model", "plugin"),
    ("model", "hub"),
    ("algorithm", "name"),
    ("algorithm", "plugin"),
    ("plugins",),
)
"""Keys that decide which plugins are loaded. Therefore no plugin may set them in ``defaults``."""


def defaults_of(layer: Layer, architecture: str) -> Mapping[str, Any]:
    """The ``defaults`` of one plugin; {} when it has none.

    Args:
        layer: its ``plugin`` may be a class.

    Raises:
        PluginError: the plugin breaks a rule of the contract, its ``defaults`` needs an instance or raises, or the
            return value is not a nested mapping or contains a key that only the user may set.
    """
    function = next((each.function for each in implementations(layer) if each.spec.name == "defaults"), None)
    if function is None:
        return {}
    if inspect.isclass(layer.plugin) and inspect.isfunction(inspect.getattr_static(layer.plugin, function.__name__)):
        hint = "put @staticmethod above its @hookimpl and drop self"
        raise PluginError(f"{layer.source}: {described(function)} is called before an instance exists", hint)
    answer = _called(layer, function, architecture)
    if not isinstance(answer, Mapping):
        raise PluginError(f"{layer.source}: {described(function)} returns {answer!r}, not a mapping of sections")
    decided = next((path for path in CHOICES if _has(answer, path)), None)
    if decided:
        raise PluginError(
            f"{layer.source}: {described(function)} sets '{dotted(decided)}', which only the user may set"
        )
    return answer


def _called(layer: Layer, function: Callable[..., Any], architecture: str) -> Any:
    arguments = {"architecture": architecture} if "architecture" in inspect.signature(function).parameters else {}
    try:
        answer = function(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise PluginError(f"{layer.source}: {described(function)} raised {error!r}") from error
    return {} if answer is None else answer


def _has(values: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def applicable(suggested: Mapping[str, Any], user: Tree) -> dict[str, Any]:
    """``suggested`` without the optional sections that the user's configuration does not have."""
    absent = [path for path in optional_sections() if not isinstance(user.get(path), dict)]
    return _without(suggested, absent, ())


def _without(values: Mapping[str, Any], absent: list[KeyPath], path: KeyPath) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if (*path, key) not in absent}
    return {
        key: _without(value, absent, (*path, key)) if isinstance(value, Mapping) else value
        for key, value in kept.items()
    }


def optional_sections(model: type[BaseModel] = Config, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The sections that may be null: ``model.lora``, ``train.ema``, ``validation.data``."""
    for key, field in fields.names(model).items():
        inner = fields.model_at(model, (key,))
        if inner is not None and type(None) in fields.options(field.annotation):
            yield (*path, key)
        elif inner is not None:
            yield from optional_sections(inner, (*path, key))
