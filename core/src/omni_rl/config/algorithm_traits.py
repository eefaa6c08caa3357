"""What the chosen algorithm needs from the rest of the run, and the settings that it does not support."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omni_rl.config.chosen import Chosen
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.errors import PluginError, UserError
from omni_rl.plugins.blame import describe_error
from omni_rl.plugins.checks import described, implementations
from omni_rl.plugins.contract import Layer


def traits_of(algorithm: Chosen) -> AlgorithmTraits:
    """The answer of the algorithm's hook ``traits`` to its own options; the defaults when it has no such hook.

    Raises:
        PluginError: the algorithm breaks a rule of the contract, cannot be built, or answers something else.
    """
    if _hook(algorithm, algorithm.object) is None:
        return AlgorithmTraits()
    try:
        return _answer(algorithm)
    except UserError:
        raise
    except Exception as error:
        what = f"{algorithm.source}: building the algorithm {algorithm.key}, or its hook `traits`, fails"
        raise PluginError(f"{what}: {describe_error(error)}") from error


def _answer(algorithm: Chosen) -> AlgorithmTraits:
    function = _hook(algorithm, algorithm.instance())
    assert function is not None, "an instance has the hooks of its class"
    takes_config = "config" in inspect.signature(function).parameters
    answer = function(config=algorithm.options) if takes_config else function()
    if not isinstance(answer, AlgorithmTraits):
        what = f"{algorithm.source}: {described(function)} returns {answer!r:.200}, not AlgorithmTraits"
        raise PluginError(what, "from omni_rl.contracts.traits import AlgorithmTraits")
    return answer


def _hook(algorithm: Chosen, plugin: object) -> Callable[..., Any] | None:
    """The hook ``traits`` of a class, an instance or a module."""
    layer = Layer("algorithm", plugin, algorithm.source)
    return next((each.function for each in implementations(layer) if each.spec.name == "traits"), None)


def conflicts(config: Config, name: str, traits: AlgorithmTraits) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield (key, problem, hint) for every setting that the algorithm ``name`` does not support."""
    sde = config.rollout.sde
    if config.rollout.group_size == 1 and traits.needs_groups:
        what = f"rollout.group_size is 1, and {name} compares the samples of a prompt"
        hint = "a group of one has no advantage: set rollout.group_size to 2 or more"
        yield ("rollout", "group_size"), what, hint
    if traits.sde and sde.noise_level == 0:
        what = f"rollout.sde.noise_level is 0, and {name} compares densities of noisy steps"
        yield ("rollout", "sde", "noise_level"), what, "raise it, e.g. to 0.7"
    if traits.sde and sde.type not in traits.sde:
        yield ("rollout", "sde", "type"), *_not_among(f"transitions of type {sde.type}", name, traits.sde)
    if traits.engines is not None and config.rollout.engine not in traits.engines:
        yield ("rollout", "engine"), *_not_among(f"the engine {config.rollout.engine}", name, traits.engines)
    if traits.backends is not None and config.train.backend not in traits.backends:
        yield ("train", "backend"), *_not_among(f"the backend {config.train.backend}", name, traits.backends)
    trained = "full" if config.model.lora is None else "lora"
    if trained not in traits.trained:
        what = f"{name} trains {' or '.join(traits.trained)} weights only"
        yield ("model", "lora"), what, "set model.lora, or leave it out"


def _not_among(what: str, name: str, able: tuple[str, ...]) -> tuple[str, str]:
    return f"{name} does not run with {what}", f"it runs with: {', '.join(able)}"
