"""Checks the hooks of a plugin before a run uses them.

pluggy alone does not report these errors: it ignores misspelt hooks and functions without the marker, and
``tryfirst`` would change the order of the layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pluggy
from typing_extensions import get_protocol_members

from omni_rl.errors import PluginError, did_you_mean
from omni_rl.plugins.contract import SPECS, Layer, Spec

_READER = pluggy.PluginManager("omni_rl")


@dataclass(frozen=True)
class Implementation:
    """One checked hook implementation of a plugin."""

    spec: Spec
    function: Callable[..., Any]
    wrapper: bool

    def __str__(self) -> str:
        return described(self.function)


def described(function: Callable[..., Any]) -> str:
    """```name` (file:line)``."""
    code = inspect.unwrap(function).__code__
    return f"`{qualified_name(function)}` ({code.co_filename}:{code.co_firstlineno})"


def qualified_name(function: Callable[..., Any]) -> str:
    """``module.Class.function``."""
    return f"{function.__module__}.{function.__qualname__}"


def reason(function: Callable[..., Any]) -> str | None:
    """The ``reason`` attribute of a function that replaces core's denoising loop, or None."""
    text = getattr(function, "reason", None)
    return text if isinstance(text, str) and text.strip() else None


TRACKER_METHODS = ("state", "restore", "close")
"""What a run calls on a tracker besides its hooks."""


def check_tracker(tracker: object, source: str) -> None:
    """Refuse a tracker, an instance or a class, that lacks a method, before a run depends on it.

    Raises:
        PluginError: a method of :class:`omni_rl.contracts.interfaces.Tracker` is missing.
    """
    missing = [name for name in TRACKER_METHODS if not callable(getattr(tracker, name, None))]
    if missing:
        raise PluginError(
            f"{source}: the tracker has no method {', '.join(missing)}.",
            "A tracker has state(), restore(state) and close(failed=False), besides its hooks on_*; "
            "omni_rl_trackers.base.Tracker is a base class for it.",
        )


def implementations(layer: Layer) -> list[Implementation]:
    """The hook implementations of one layer's plugin: a module, an instance, or (only for checks) a class.

    Raises:
        PluginError: an implementation has no marker, an unknown hook or argument, sets ``tryfirst`` or ``trylast``,
            or is not allowed in this layer.
    """
    checked = list(_implementations(layer))
    for each in checked:
        _check_layer(layer, each)
    return checked


def _implementations(layer: Layer) -> Iterator[Implementation]:
    for name in dir(layer.plugin):
        options = _READER.parse_hookimpl_opts(layer.plugin, name)
        if options is None:
            _refuse_unmarked(layer, name)
            continue
        function = getattr(layer.plugin, name)
        spec = _spec(layer, options["specname"] or name, function)
        if options["tryfirst"] or options["trylast"]:
            raise PluginError(
                f"{layer.source}: {described(function)} sets tryfirst or trylast, but the layers decide the order.",
                "Remove it: core < model < algorithm < pair < local files, and the most specific answer wins.",
            )
        _check_wrapper(layer, function, options)
        _check_arguments(layer, spec, function, name)
        yield Implementation(spec, function, options["wrapper"])


def _refuse_unmarked(layer: Layer, name: str) -> None:
    static = inspect.getattr_static(layer.plugin, name, None)
    function = getattr(static, "__func__", static)
    if name in SPECS and callable(function):
        where = described(function) if inspect.isfunction(function) else f"`{name}`"
        raise PluginError(
            f"{layer.source}: {where} has the name of a hook but no hookimpl marker, so it would never be called.",
            "Put @omni_rl.hookimpl above a plain `def`, or give it another name.",
        )


def _spec(layer: Layer, hook: str, function: Callable[..., Any]) -> Spec:
    if hook not in SPECS:
        raise PluginError(
            f"{layer.source}: {described(function)} has the hookimpl marker, but there is no hook {hook!r}."
            f"{did_you_mean(hook, SPECS)}",
            f"Hooks: {', '.join(SPECS)}. A hook of a newer contract needs: pip install --upgrade omni-rl",
        )
    return SPECS[hook]


def _check_wrapper(layer: Layer, function: Callable[..., Any], options: pluggy.HookimplOpts) -> None:
    yields = inspect.isgeneratorfunction(inspect.unwrap(function))
    if options["hookwrapper"] or yields != options["wrapper"]:
        raise PluginError(
            f"{layer.source}: {described(function)} {'yields' if yields else 'never yields'}, "
            f"but is {'' if options['wrapper'] or options['hookwrapper'] else 'not '}marked as a wrapper"
            f"{' of the old style' if options['hookwrapper'] else ''}.",
            "A wrapper is @hookimpl(wrapper=True) and holds exactly one `result = yield`; other hooks return.",
        )


def _check_arguments(layer: Layer, spec: Spec, function: Callable[..., Any], name: str) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(layer.plugin) and inspect.isfunction(inspect.getattr_static(layer.plugin, name)):
        parameters = parameters[1:]  # self
    unnamed = [str(p) for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [p.name for p in parameters if p.name not in spec.arguments]
    if unnamed:
        problem = f"takes {', '.join(unnamed)}; a hook's arguments must be plain parameters (no *, no **)."
    elif unknown:
        known = did_you_mean(unknown[0], spec.arguments)
        problem = f"has the argument {', '.join(map(repr, unknown))}, but the hook {spec.name!r} does not.{known}"
    else:
        return
    raise PluginError(
        f"{layer.source}: {described(function)} {problem}", f"The hook is {spec}; list only arguments that you need."
    )


def _check_layer(layer: Layer, each: Implementation) -> None:
    assert layer.name != "core" or not each.wrapper, f"core registers no wrapper: {each}"
    if layer.name == "observer" and not each.spec.observes:
        raise PluginError(
            f"{layer.source}: {each} implements the hook {each.spec.name!r}, but an observer must not change a run.",
            f"Hooks of observers: {', '.join(name for name, spec in SPECS.items() if spec.observes)}.",
        )
    if each.spec.name == "diffuse" and layer.name != "core" and not each.wrapper and not reason(each.function):
        raise PluginError(
            f"{layer.source}: {each} replaces the denoising loop without a reason.",
            'Give the reason, which `omni-rl check` prints: diffuse.reason = "a sentence". '
            "Overriding `predict` instead keeps continuous batching.",
        )


def require_members(built: object, protocol: type, label: str) -> None:
    """Raise PluginError unless the object has all attributes of a protocol, and methods that take its arguments."""
    for name in sorted(get_protocol_members(protocol)):
        wanted = getattr(protocol, name, None)
        names = [*inspect.signature(wanted).parameters][1:] if inspect.isfunction(wanted) else None
        try:
            member = getattr(built, name)
            if names is not None:
                inspect.signature(member).bind(*names)
        except (AttributeError, TypeError) as error:
            shown = name if names is None else f"{name}({', '.join(names)})"
            raise PluginError(f"{label} has no {shown}, which {protocol.__name__} requires") from error
