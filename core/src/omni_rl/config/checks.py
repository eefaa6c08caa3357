"""What has to hold between keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omni_rl.config.call_arguments import SECTIONS, forbidden
from omni_rl.config.chosen import Chosen
from omni_rl.config.layers import Tree
from omni_rl.config.problems import at
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import conflicts
from omni_rl.errors import UserError


def cross_checks(config: Config, algorithm: Chosen | None, tree: Tree) -> Iterator[UserError]:
    """Everything that is wrong although each key alone is right.

    Args:
        algorithm: None when it could not be found; what depends on it is then not checked. A class attribute
            ``needs_groups = False`` says that its advantages need no second sample of a prompt.
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
        for place, what, hint in conflicts(config, algorithm.key, algorithm.object):
            yield at(tree, place, what, hint)
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
