"""Builds the rewards of a run, once for every distinct configuration, so that scorers are in memory only once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omni_rl.contracts.reward import Reward
from omni_rl.contracts.schema import RewardEntry
from omni_rl.contracts.spec import LocalFile, Part
from omni_rl.rewards.answers import refusal
from omni_rl.rewards.calls import Calls
from omni_rl.rewards.process import OwnProcess
from omni_rl.rewards.runner import RewardRunner, RewardSpec
from omni_rl.rewards.surroundings import Surroundings


@dataclass(frozen=True)
class Recipe:
    """One entry of ``reward:``, and how to build it.

    Attributes:
        entry: the entry.
        part: the plugin and all its options, as JSON data.
        make: builds the reward in this process.
    """

    entry: RewardEntry
    part: Part
    make: Callable[[], Reward]

    @property
    def label(self) -> str:
        """The reward's name in metrics."""
        return self.entry.label or self.entry.name


@dataclass
class Builder:
    """Builds runners that share their rewards and threads.

    Attributes:
        files: local plugin files, from which another process may have to load a reward.
    """

    files: list[LocalFile]
    _built: dict[str, Reward] = field(default_factory=dict)
    _calls: Calls = field(default_factory=Calls)

    def runner(self, recipes: Sequence[Recipe]) -> RewardRunner:
        """A runner of these rewards.

        Raises:
            RewardError: a reward changes settings of the process while it is built, or its own process fails.
            UserError: as the rewards' constructors.
        """
        try:
            return RewardRunner([self._spec(each) for each in recipes], self._calls)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End threads and processes of what was built."""
        for reward in self._built.values():
            if isinstance(reward, OwnProcess):
                reward.stop()
        self._calls.close()

    def _spec(self, recipe: Recipe) -> RewardSpec:
        entry: RewardEntry = recipe.entry
        return RewardSpec(recipe.label, entry.weight, entry.batch_size, self._reward(recipe), entry.timeout_s)

    def _reward(self, recipe: Recipe) -> Reward:
        entry: RewardEntry = recipe.entry
        key = json.dumps([recipe.part.model_dump(mode="json"), entry.process])
        if key not in self._built:
            self._built[key] = OwnProcess(recipe.part, self.files) if entry.process else _watched(recipe)
        return self._built[key]


def _watched(recipe: Recipe) -> Reward:
    before = Surroundings()
    try:
        reward: Any = recipe.make()
    finally:
        changes = before.restored()
        before.close()
    settings = [change for change in changes if not change.startswith("the seed of")]  # no draw of a run uses them
    if settings:
        raise refusal({recipe.label}, settings, " while it was built")
    return reward  # type: ignore[no-any-return]
