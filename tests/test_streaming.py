"""Samples and rewards that arrive late, out of order, or not at all run through the unchanged loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train
from omni_rl.errors import RunError

pytestmark = pytest.mark.ci

# An engine around the embedded one. It draws samples one by one, and all prompts have equally many tokens: then a
# sample's last bits do not depend on which others it is drawn and padded with.
UNRULY = """
import random
import time
from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl.contracts.types import Sample


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    fault: Literal["none", "once", "always", "uid", "policy_version", "lost", "twice"] = "none"


class Unruly:
    Config = Config
    honours, supplies, notices = EmbeddedEngine.honours, frozenset(), ()

    def __init__(self, context):
        self._inner = EmbeddedEngine(context)
        self.takes_weights = self._inner.takes_weights
        self._fault = context.options.fault
        self._random = random.Random(0)
        self._asked = Counter()
        self._tried = []

    def submit(self, requests):
        shuffled = self._random.sample(list(requests), len(requests))
        for request in shuffled:
            name = (request.key, request.policy_version)
            self._asked[name] += 1
            third = request.key.purpose == "rollout" and request.sample_id % 3 == 0
            if third and (self._fault == "always" or (self._fault == "once" and self._asked[name] == 1)):
                self._tried.append(Sample(request, error="the worker went away"))
            else:
                self._inner.submit([request])

    def completed(self):
        found = [*self._inner.completed(), *self._tried]
        self._tried = []
        for sample in self._random.sample(found, len(found)):
            time.sleep(self._random.random() / 200)
            if sample.request.key.purpose == "rollout" and sample.request.sample_id % 8 == 1:
                if self._fault in ("uid", "policy_version"):
                    sample.trajectory[self._fault] -= 1
                if self._fault == "lost":
                    continue
                if self._fault == "twice":
                    yield sample
            yield sample

    def sync(self, policy_version, weights):
        return self._inner.sync(policy_version, weights)

    def close(self):
        self._inner.close()


OMNI_RL = {"engines": {"unruly": Unruly}}
"""

SLOW_REWARD = """
import asyncio
import random


async def score(batch):
    await asyncio.sleep(random.random() / 20)
    return [float(media["image"].data.mean()) / 255 for media in batch.media]
"""

Figures = Callable[[Path], list[dict[str, float]]]


@pytest.fixture
def run_of(recipe: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """``run_of("name", "rollout.engine=unruly")``: a run whose reward is slow, asynchronous and called per sample."""
    (tmp_path / "unruly.py").write_text(UNRULY)
    (tmp_path / "slow.py").write_text(SLOW_REWARD)
    (tmp_path / "prompts.txt").write_text("a plain card 1\na plain card 2\na plain card 3\na plain card 4\n")
    recipe["plugins"] = [str(tmp_path / "unruly.py")]
    recipe["reward"] = [{"name": "python", "file": str(tmp_path / "slow.py"), "batch_size": 1}]
    recipe["rollout"]["batch_size"] = 1
    return lambda name, *overrides: train(recipe, overrides, tmp_path / name)


@pytest.mark.parametrize("fault", ["none", "once"])
def test_order_delay_and_retries_change_nothing(
    run_of: Callable[..., Any], tmp_path: Path, figures: Figures, fault: str
) -> None:
    """A retried request has the same key, hence the same draws; a later policy would show in every figure."""
    run_of("calm")
    run_of("unruly", "rollout.engine=unruly", f"rollout.fault={fault}")
    assert figures(tmp_path / "unruly") == figures(tmp_path / "calm")
    assert all(row["reward/missing_ratio"] == 0 for row in figures(tmp_path / "unruly"))


def test_a_sample_that_never_comes_is_missing_and_the_rest_trains(run_of: Callable[..., Any]) -> None:
    """Every third of sixteen samples: a share of each group is left."""
    run = run_of("holes", "rollout.engine=unruly", "rollout.fault=always", "rollout.group_size=8")
    missing = [sum(i % 3 == 0 for i in range(16 * k, 16 * k + 16)) / 16 for k in range(3)]
    assert [row["reward/missing_ratio"] for row in run.metrics] == pytest.approx(missing)
    assert all(row["actor/grad_norm"] > 0 and row["reward/std"] > 0 for row in run.metrics)


def test_a_validation_picture_that_never_comes_is_black(run_of: Callable[..., Any], tmp_path: Path) -> None:
    source = (tmp_path / "unruly.py").read_text().replace('"rollout" and request', '"validation" and request')
    (tmp_path / "unruly.py").write_text(source)
    run = run_of("holes", "rollout.engine=unruly", "rollout.fault=always")
    last = run.last_validation
    assert last is not None
    assert last.rewards.isnan().tolist() == [True, False, False, True]
    assert [bool(picture.any()) for picture in last.images()] == [False, True, True, False]
    assert (tmp_path / "holes/report.html").is_file()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("uid", "returned uid"),
        ("policy_version", "returned policy_version -1"),
        ("lost", "lost 1 of 8 requests"),
        ("twice", "twice"),
    ],
)
def test_an_engine_that_answers_for_another_request_ends_the_run(
    run_of: Callable[..., Any], fault: str, says: str
) -> None:
    with pytest.raises(RunError, match=says):
        run_of("wrong", "rollout.engine=unruly", f"rollout.fault={fault}")


def test_such_a_run_exits_1(call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "unruly.py").write_text(UNRULY)
    file = config_file(plugins=["unruly.py"], rollout={"engine": "unruly", "fault": "policy_version"})
    outcome = call("train", file)
    assert outcome.code == 1
    assert "policy_version" in outcome.err
    assert "Traceback" not in outcome.err
