"""Checks that involve more than one key."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omni_rl.config.algorithm_traits import conflicts
from omni_rl.config.call_arguments import SECTIONS, forbidden
from omni_rl.config.layers import Tree
from omni_rl.config.problems import at
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.errors import UserError

SAMPLES = 1_000_000
"""Most samples of an iteration."""


def cross_checks(config: Config, algorithm: str, traits: AlgorithmTraits | None, tree: Tree) -> Iterator[UserError]:
    """Yield an error for every combination of keys that does not work although each key alone is valid.

    Args:
        algorithm: the name of the algorithm.
        traits: None when the algorithm could not be found or built; checks that depend on it are then skipped.
    """
    for path, what, hint in [] if traits is None else conflicts(config, algorithm, traits):
        yield at(tree, path, what, hint)
    small, prompts = config.train.mini_batch_prompts, config.rollout.prompts
    if small is not None and small > prompts:
        what = f"train.mini_batch_prompts is {small}, but an iteration has rollout.prompts = {prompts}"
        yield at(
            tree, ("train", "mini_batch_prompts"), what, f"set it to {prompts} or less, or to null for all of them"
        )
    samples = prompts * config.rollout.group_size
    if samples > SAMPLES:
        what = f"rollout.prompts times rollout.group_size is {samples}, more than {SAMPLES} samples in one iteration"
        yield at(tree, ("rollout", "group_size"), what, "choose smaller numbers")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", config.device):
        yield at(tree, ("device",), f"device takes auto, cpu, cuda or cuda:N, not '{config.device}'")
    for section, call in zip(SECTIONS, (config.rollout.call, config.validation.call), strict=True):
        for key, reason in forbidden(call, section):
            yield at(tree, (*section.split("."), key), f"{section}.{key} cannot be set", reason)
