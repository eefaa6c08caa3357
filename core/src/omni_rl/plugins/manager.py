"""Builds one pluggy manager from the layers of a run, and binds its hooks for the rest of omni-rl.

Every run builds its own manager: core < model < algorithm < pair < local files. The most specific answer wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pluggy

from omni_rl.contracts import hooks
from omni_rl.errors import PluginError
from omni_rl.plugins.checks import Implementation, implementations, qualified_name, reason
from omni_rl.plugins.contract import ORDER, SPECS, Layer, LayerName, Spec


class Manager(pluggy.PluginManager):
    """A pluggy manager that records the layer of each plugin."""

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
    """One implementation of a hook: it answers the hook, or wraps the answer."""

    hook: str
    source: str
    name: str
    role: Literal["answers", "wraps"]


def build_manager(layers: Sequence[Layer]) -> Manager:
    """A new manager with these layers, given in any order; layers of the same name keep their relative order.

    Raises:
        PluginError: a plugin breaks a rule of ``omni_rl.contracts.hooks``, or two plugins of one layer implement the
            same firstresult hook.
    """
    manager = Manager()
    answered: dict[tuple[LayerName, str], tuple[Layer, Implementation]] = {}
    for layer in sorted(layers, key=lambda each: ORDER.index(each.name)):
        assert not isinstance(layer.plugin, type), f"register an instance of {layer.plugin}, not the class"
        _refuse_repeated(manager, layer)
        for each in implementations(layer):
            if each.spec.firstresult and not each.wrapper:
                other = answered.setdefault((layer.name, each.spec.name), (layer, each))
                _refuse_conflict(layer, each, other)
        manager.add(layer)
    return manager


def _refuse_repeated(manager: Manager, layer: Layer) -> None:
    for known in manager.layers.values():
        if known.plugin == layer.plugin:
            raise PluginError(f"{layer.source} is listed twice in this run.", "List every plugin once.")


def _refuse_conflict(layer: Layer, each: Implementation, other: tuple[Layer, Implementation]) -> None:
    if other[1] is not each:
        raise PluginError(
            f"Two plugins of the {layer.name} layer answer the hook {each.spec.name!r}: "
            f"{other[0].source} with {other[1]} and {layer.source} with {each}.",
            "They have equal priority: remove one, or merge the two functions.",
        )


class Hooks:
    """The hooks of one run, bound once: ``hooks.predict(model=..., x=..., t=..., conditioning=..., call=...)``.

    A call passes every argument of the hook by name. A firstresult hook returns the most specific answer, and raises
    PluginError if every implementation returns None. Any other hook is called from the most specific layer to core and
    returns the answers in the reverse order, core's first; a wrapper receives the list in calling order.
    """

    def __init__(self, manager: Manager) -> None:
        for spec in SPECS.values():
            setattr(self, spec.name, _bound(manager, spec))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...


def _bound(manager: Manager, spec: Spec) -> Callable[..., Any]:
    call, arguments = _caller(manager, spec), frozenset(spec.arguments)

    def first(**given: Any) -> Any:
        assert given.keys() == arguments, f"{spec} was called with {sorted(given)}"
        answer = call(given)
        if answer is None:
            raise _unanswered(manager, spec)
        return answer

    def every(**given: Any) -> list[Any]:
        assert given.keys() == arguments, f"{spec} was called with {sorted(given)}"
        answer = call(given)
        if not isinstance(answer, list):
            raise PluginError(
                f"A wrapper of the hook {spec.name!r} returned {answer!r}, not the list of answers.",
                f"Return the value of `yield`. Plugins with this hook: {', '.join(_sources(manager, spec))}.",
            )
        return answer[::-1]

    return first if spec.firstresult else every


def _caller(manager: Manager, spec: Spec) -> Callable[[dict[str, Any]], Any]:
    caller: pluggy.HookCaller = getattr(manager.hook, spec.name)
    registered = caller.get_hookimpls()
    if not spec.firstresult or len(registered) != 1 or registered[0].wrapper:
        return lambda given: caller(**given)
    # A single implementation is called without pluggy, which would cost time in every denoising step.
    function, names = registered[0].function, (*registered[0].argnames, *registered[0].kwargnames)
    return lambda given: function(*[given[name] for name in names])


def _sources(manager: Manager, spec: Spec) -> list[str]:
    return [manager.layers[each.plugin_name].source for each in _calling_order(manager, spec)]


def _calling_order(manager: Manager, spec: Spec) -> list[pluggy.HookImpl]:
    caller: pluggy.HookCaller = getattr(manager.hook, spec.name)
    return caller.get_hookimpls()[::-1]


def _unanswered(manager: Manager, spec: Spec) -> PluginError:
    called = ", ".join(_sources(manager, spec))
    why = f"{called} returned None, which means 'pass'." if called else "no plugin of this run implements it."
    return PluginError(
        f"No plugin answered the hook {spec.name!r}: {why}",
        f"Return a value from {spec}; a sentinel such as NO_CONDITION stands for 'nothing'.",
    )


def answers(manager: Manager) -> list[Answer]:
    """The implementations of each hook for ``omni-rl explain``, in the order of the contract, wrappers first.

    For a firstresult hook, only the implementation that is called first is listed; for any other hook, all of them in
    calling order.
    """
    rows = []
    for spec in SPECS.values():
        answered = False
        for each in _calling_order(manager, spec):
            if each.wrapper or not (answered and spec.firstresult):
                source = manager.layers[each.plugin_name].source
                rows.append(
                    Answer(spec.name, source, qualified_name(each.function), "wraps" if each.wrapper else "answers")
                )
            answered = answered or not each.wrapper
    return rows


def overridden(manager: Manager, above: LayerName = "core") -> set[str]:
    """The hooks that a layer above the given one answers or wraps; the engine of this run must honour them."""
    return {
        spec.name
        for spec in SPECS.values()
        for each in _calling_order(manager, spec)
        if ORDER.index(manager.layers[each.plugin_name].name) > ORDER.index(above)
    }


def diffuse_reason(manager: Manager) -> str | None:
    """The reason for replacing the denoising loop, with the plugin's source; None when core's loop runs."""
    for each in _calling_order(manager, SPECS["diffuse"]):
        layer = manager.layers[each.plugin_name]
        if layer.name != "core" and not each.wrapper:
            return f"{reason(each.function)} ({layer.source})"
    return None
