"""The hooks of ``omni_rl.contracts.hooks`` as data, and the layers that implement them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from omni_rl.contracts import hooks

LayerName = Literal["core", "model", "algorithm", "pair", "local", "observer"]

ORDER: tuple[LayerName, ...] = get_args(LayerName)
"""From the least to the most specific layer; observers come last because their hooks return nothing."""

LAYER_OF_KIND: Mapping[str, LayerName] = MappingProxyType(
    {"models": "model", "algorithms": "algorithm", "pairs": "pair", "plugins": "observer"}
)
"""The kinds of plugins that have hooks, with their layers."""


@dataclass(frozen=True)
class Layer:
    """One plugin of a run.

    Attributes:
        name: its place in ``ORDER``.
        plugin: a module or an instance whose hooks have the ``hookimpl`` marker.
        source: its name in messages, ``<distribution> <version>`` or a file's path.
    """

    name: LayerName
    plugin: object
    source: str


@dataclass(frozen=True)
class Spec:
    """One hook of the contract.

    Attributes:
        arguments: the argument names that an implementation may use.
        firstresult: True: the most specific answer that is not None is used. False: all answers are collected.
        observes: the hook returns nothing.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    firstresult: bool
    observes: bool

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.arguments)})"


def _spec(name: str, function: Callable[..., Any]) -> Spec:
    signature = inspect.signature(function)
    return Spec(
        name=name,
        function=function,
        arguments=tuple(signature.parameters),
        firstresult=function.omni_rl_spec["firstresult"],  # type: ignore[attr-defined]
        observes=signature.return_annotation == "None",
    )


SPECS: Mapping[str, Spec] = MappingProxyType(
    {name: _spec(name, value) for name, value in vars(hooks).items() if hasattr(value, "omni_rl_spec")}
)
"""Every hook by name, in the order of the contract."""
