"""The layers of one run as one pluggy manager, and the bound calls that the rest of omni-rl makes.

Every run builds its own manager: core < model < algorithm < pair < local files, the most specific answer wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pluggy

from omni_rl.contracts import hooks
from omni_rl.errors import PluginError
from omni_rl.plugins.checks import Implementation, implementations, qualified_name, reason
from omni_rl.plugins.contract import ORDER, SPECS, Layer, LayerName, Spec

__all__ = [
    "Answer",
    "Hooks",
    "Layer",
    "LayerName",
    "Manager",
    "answers",
    "build_manager",
    "diffuse_reason",
    "overridden",
]


class Manager(pluggy.PluginManager):
    """A pluggy manager that remembers which layer each plugin stands in."""

    def __init__(self) -> None:
        super().__init__("omni_rl")
        self.add_hookspecs(hooks)
        self.layers: dict[str, Layer] = {}

    def add(self, layer: Layer) -> None:
        """Register the next more specific layer."""
        name = f"{len(self.layers)} {layer.name} {layer.source}"
        self.layers[name] = layer
        self.register(layer.plugin, name=name)


class Answer(NamedTuple):
    """Who answers a hook, or wraps the answer."""

    hook: str
    source: str
    name: str
    role: Literal["answers", "wraps"]


def build_manager(layers: Sequence[Layer]) -> Manager:
    """A fresh manager over these layers, in any order; layers of the same name keep theirs.

    Raises:
        PluginError: a plugin breaks a rule of ``omni_rl.contracts.hooks``, or two plugins of one layer answer one hook.
    """
    manager = Manager()
    answered: dict[tuple[LayerName, str], tuple[Layer, Implementation]] = {}
    for layer in sorted(layers, key=lambda each: ORDER.index(each.name)):
        assert not isinstance(layer.plugin, type), f"register an instance of {layer.plugin}, not the class"
        _refuse_repeated(manager, layer)
        for found in implementations(layer):
            if found.spec.firstresult and not found.wrapper:
                other = answered.setdefault((layer.name, found.spec.name), (layer, found))
                _refuse_conflict(layer, found, other)
        manager.add(layer)
    return manager


def _refuse_repeated(manager: Manager, layer: Layer) -> None:
    for known in manager.layers.values():
        if known.plugin == layer.plugin:
            raise PluginError(f"{layer.source} is listed twice in this run.", "List every plugin once.")


def _refuse_conflict(layer: Layer, found: Implementation, other: tuple[Layer, Implementation]) -> None:
    if other[1] is not found:
        raise PluginError(
            f"Two plugins of the {layer.name} layer answer the hook {found.spec.name!r}: "
            f"{other[0].source} with {other[1]} and {layer.source} with {found}.",
            "Nothing ranks them: remove one, or merge the two functions.",
        )


class Hooks:
    """The hooks of one run, bound once: ``hooks.predict(model=..., x=..., t=..., conditioning=..., call=...)``.

    A call names every argument of the hook. A firstresult hook returns the most specific answer and raises PluginError
    when everybody passes. Any other hook returns the list of answers from core to the most specific layer, and is
    called from the most specific to core; a wrapper sees its list in calling order.
    """

    def __init__(self, manager: Manager) -> None:
        for spec in SPECS.values():
            setattr(self, spec.name, _bound(manager, spec))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...


def _bound(manager: Manager, spec: Spec) -> Callable[..., Any]:
    ask, arguments = _asker(manager, spec), frozenset(spec.arguments)

    def first(**given: Any) -> Any:
        assert given.keys() == arguments, f"{spec} was called with {sorted(given)}"
        answer = ask(given)
        if answer is None:
            raise _nobody(manager, spec)
        return answer

    def every(**given: Any) -> list[Any]:
        assert given.keys() == arguments, f"{spec} was called with {sorted(given)}"
        answer = ask(given)
        if not isinstance(answer, list):
            raise PluginError(
                f"A wrapper of the hook {spec.name!r} returned {answer!r}, not the list of answers.",
                f"Return what `yield` gave; asked: {', '.join(_sources(manager, spec))}.",
            )
        return answer[::-1]

    return first if spec.firstresult else every


def _asker(manager: Manager, spec: Spec) -> Callable[[dict[str, Any]], Any]:
    caller: pluggy.HookCaller = getattr(manager.hook, spec.name)
    found = caller.get_hookimpls()
    if not spec.firstresult or len(found) != 1 or found[0].wrapper:
        return lambda given: caller(**given)
    function, names = found[0].function, (*found[0].argnames, *found[0].kwargnames)
    return lambda given: function(*[given[name] for name in names])


def _sources(manager: Manager, spec: Spec) -> list[str]:
    return [manager.layers[each.plugin_name].source for each in _calling_order(manager, spec)]


def _calling_order(manager: Manager, spec: Spec) -> list[pluggy.HookImpl]:
    caller: pluggy.HookCaller = getattr(manager.hook, spec.name)
    return caller.get_hookimpls()[::-1]


def _nobody(manager: Manager, spec: Spec) -> PluginError:
    asked = ", ".join(_sources(manager, spec))
    why = f"{asked} returned None, which means 'pass'." if asked else "no plugin of this run implements it."
    return PluginError(
        f"Nobody answered the hook {spec.name!r}: {why}",
        f"Return a value from {spec}; a sentinel such as NO_CONDITION says 'nothing'.",
    )


def answers(manager: Manager) -> list[Answer]:
    """Who answers each hook, in the order of the contract, wrappers first, for ``omni-rl explain``.

    Of a firstresult hook only the plugin that is asked first is listed; of any other hook, all in calling order.
    """
    rows = []
    for spec in SPECS.values():
        asked = False
        for each in _calling_order(manager, spec):
            if each.wrapper or not (asked and spec.firstresult):
                source = manager.layers[each.plugin_name].source
                rows.append(
                    Answer(spec.name, source, qualified_name(each.function), "wraps" if each.wrapper else "answers")
                )
            asked = asked or not each.wrapper
    return rows


def overridden(manager: Manager, above: LayerName = "core") -> set[str]:
    """Hooks that a layer above the given one answers or wraps: what an engine must honour for this run."""
    return {
        spec.name
        for spec in SPECS.values()
        for each in _calling_order(manager, spec)
        if ORDER.index(manager.layers[each.plugin_name].name) > ORDER.index(above)
    }


def diffuse_reason(manager: Manager) -> str | None:
    """Why this run replaces the denoising loop, with the source; None when core's loop runs."""
    for each in _calling_order(manager, SPECS["diffuse"]):
        layer = manager.layers[each.plugin_name]
        if layer.name != "core" and not each.wrapper:
            return f"{reason(each.function)} ({layer.source})"
    return None
