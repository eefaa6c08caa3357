"""Checks that involve more than one key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omni_rl.config.call_arguments import SECTIONS, forbidden
from omni_rl.config.chosen import Chosen
from omni_rl.config.layers import Tree
from omni_rl.config.problems import at
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import compatibility_of
from omni_rl.errors import UserError


def cross_checks(config: Config, algorithm: Chosen | None, tree: Tree) -> Iterator[UserError]:
    """Yield an error for every combination of keys that does not work although each key alone is valid.

    Args:
        algorithm: None when it could not be found; checks that depend on it are then skipped. A class attribute
            ``needs_groups = False`` declares that its advantages work with one sample per prompt.
    """
    if algorithm is not None and config.rollout.group_size == 1 and getattr(algorithm.object, "needs_groups", True):
        what = f"rollout.group_size is 1, and {algorithm.key} compares the samples of a prompt"
        yield at(
            tree,
            ("rollout", "group_size"),
            what,
            "a group of one has no advantage: set rollout.group_size to 2 or more",
        )
    if algorithm is not None:
        for path, what, hint in conflicts(config, algorithm.key, algorithm.object):
            yield at(tree, path, what, hint)
    small, prompts = config.train.mini_batch_prompts, config.rollout.prompts
    if small is not None and small > prompts:
        what = f"train.mini_batch_prompts is {small}, but an iteration has rollout.prompts = {prompts}"
        yield at(
            tree, ("train", "mini_batch_prompts"), what, f"set it to {prompts} or less, or to null for all of them"
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        yield at(tree, ("device",), f"device takes auto, cpu, cuda or cuda:N, not '{config.device}'")
    for section, call in zip(SECTIONS, (config.rollout.call, config.validation.call), strict=True):
        for key, reason in forbidden(call, section):
            yield at(tree, (*section.split("."), key), f"{section}.{key} cannot be set", reason)


def conflicts(config: Config, name: str, algorithm: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield (key, problem, hint) for every setting that the algorithm ``name`` does not support."""
    able = compatibility_of(algorithm)
    sde = config.rollout.sde
    if able.sde and sde.noise_level == 0:
        what = f"rollout.sde.noise_level is 0, and {name} compares densities of noisy steps"
        yield ("rollout", "sde", "noise_level"), what, "raise it, e.g. to 0.7"
    if able.sde and sde.type not in able.sde:
        yield ("rollout", "sde", "type"), *_not_among(f"transitions of type {sde.type}", name, able.sde)
    if able.engines is not None and config.rollout.engine not in able.engines:
        yield ("rollout", "engine"), *_not_among(f"the engine {config.rollout.engine}", name, able.engines)
    if able.backends is not None and config.train.backend not in able.backends:
        yield ("train", "backend"), *_not_among(f"the backend {config.train.backend}", name, able.backends)
    trained = "full" if config.model.lora is None else "lora"
    if trained not in able.trained:
        what = f"{name} trains {' or '.join(able.trained)} weights only"
        yield ("model", "lora"), what, "set model.lora, or leave it out"


def _not_among(what: str, name: str, able: tuple[str, ...]) -> tuple[str, str]:
    return f"{name} does not run with {what}", f"it runs with: {', '.join(able)}"
