"""The reward suite passes a sound reward and fails one test for each way to break the contract."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch
from omni_rl_testing.reward import RewardContract


class Redness:
    """Mean red value in [0, 1]."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        gain: float = Field(1.0, description="factor")

    scope: ClassVar[Literal["sample", "group"]] = "sample"

    def __init__(self, config: Any = None) -> None:
        self.config = config or self.Config()

    def score(self, batch: RewardBatch) -> Any:
        return [self.config.gain * float(m["image"].data[..., 0].mean()) / 255 for m in batch.media]


class Waiting(Redness):
    async def score(self, batch: RewardBatch) -> Any:
        return super().score(batch)


class Partial(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return [None if score > 0.9 else score for score in super().score(batch)]


class Ranked(Redness):
    """Rank within the group: sound for scope group."""

    scope = "group"

    def score(self, batch: RewardBatch) -> Any:
        scores = super().score(batch)
        return [
            sum(scores[other] < scores[row] for other in range(len(batch)) if batch.uids[other] == batch.uids[row])
            for row in range(len(batch))
        ]


class RankedAsSample(Ranked):
    scope = "sample"


class OtherScope(Redness):
    scope = "batch"  # type: ignore[assignment]


class Lenient(Redness):
    class Config(Redness.Config):
        model_config = ConfigDict(extra="ignore")


class Shadowing(Redness):
    class Config(Redness.Config):
        weight: float = Field(1.0, description="already a key of the section")


class Undescribed(Redness):
    class Config(Redness.Config):
        extra: float = 1.0


class NotANumber(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return [float("nan"), *super().score(batch)[1:]]


class Text(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return [str(score) for score in super().score(batch)]


class OneShort(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return super().score(batch)[1:]


class Constant(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return [0.5] * len(batch)


class Sorted(Redness):
    def score(self, batch: RewardBatch) -> Any:
        return sorted(super().score(batch))


class Centred(Redness):
    """Subtracts the batch mean: what core does with groups, and no reward may do with batches."""

    def score(self, batch: RewardBatch) -> Any:
        scores = super().score(batch)
        return [score - sum(scores) / len(scores) for score in scores]


class Meddling(Redness):
    def score(self, batch: RewardBatch) -> Any:
        scores = super().score(batch)
        for media in batch.media:
            media["image"].data[:] = 0
        return scores


FAULTS = {
    OtherScope: "test_scope_is_sample_or_group",
    Lenient: "test_config_refuses_unknown_keys",
    Shadowing: "test_options_do_not_shadow_the_section",
    Undescribed: "test_options_are_described",
    NotANumber: "test_one_finite_number_or_none_per_sample",
    Text: "test_one_finite_number_or_none_per_sample",
    OneShort: "test_one_finite_number_or_none_per_sample",
    Constant: "test_scores_differ",
    Sorted: "test_order_does_not_matter",
    Centred: "test_the_rest_of_the_batch_does_not_matter",
    RankedAsSample: "test_the_rest_of_the_batch_does_not_matter",
    Meddling: "test_samples_are_left_alone",
}
TESTS = [name for name in dir(RewardContract) if name.startswith("test_")]


def pictures() -> RewardBatch:
    rng = np.random.default_rng(0)
    media = [{"image": Media("image", rng.integers(0, top, (4, 4, 3), np.uint8))} for top in (255, 60, 160, 100)]
    media.append({"image": Media("image", np.full((4, 4, 3), 250, np.uint8))})
    return RewardBatch(media, ["a"] * 3 + ["b"] * 2, [{} for _ in media], [7, 7, 7, 3, 3])


def run(test: str, reward: Redness) -> None:
    method = getattr(RewardContract(), test)
    arguments = {"reward": reward, "samples": pictures()}
    method(**{name: arguments[name] for name in inspect.signature(method).parameters})


@pytest.mark.parametrize("sound", [Redness, Waiting, Partial, Ranked])
class TestSound(RewardContract):
    @pytest.fixture
    def reward(self, sound: type[Redness]) -> Redness:
        return sound()

    @pytest.fixture
    def samples(self) -> RewardBatch:
        return pictures()


@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty: type[Redness], test: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(test, faulty())


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test: str) -> None:
    assert test in FAULTS.values()
