"""Rewards that misbehave in a real run: the gate refuses them; later, missing scores are skipped and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rl.errors import RewardError
from omni_rl.run.start import check, train

pytestmark = pytest.mark.ci


@pytest.fixture
def with_reward(recipe, tmp_path: Path):
    """``with_reward(source, ...)``: the smallest run with the function ``score`` of this text as its reward."""

    def configured(source: str, gate: str = "on", **options: object):
        (tmp_path / "mine.py").write_text(source)
        recipe["reward"] = [{"name": "python", "file": str(tmp_path / "mine.py"), "label": "mine", **options}]
        recipe["gate"] = gate
        return recipe

    return configured


LIGHT = "[float(media['image'].data.mean()) for media in batch.media]"


def counting(line: str) -> str:
    """A reward that runs ``line`` with the number of its calls so far, and returns the mean of the pixels."""
    return f"CALLS = []\ndef score(batch):\n    CALLS.append(1)\n    {line}\n    return {LIGHT}\n"


SPREAD = """
def score(batch):
    light = [float(media["image"].data.mean()) for media in batch.media]
    alone = [batch.uids.count(uid) == 1 for uid in batch.uids]
    return [None if one else value for one, value in zip(alone, light)]
"""


def test_a_group_reward_that_cannot_score_a_lone_sample_is_found_before_training(with_reward) -> None:
    with pytest.raises(RewardError) as caught:
        train(with_reward(SPREAD, scope="group"))
    message = str(caught.value)
    assert "reward 'mine' returned None" in message
    assert "validation.samples_per_prompt" in message


def test_with_enough_samples_per_prompt_the_same_reward_passes(with_reward) -> None:
    config = with_reward(SPREAD, scope="group")
    config["validation"]["samples_per_prompt"] = 2
    assert {row.name: row.verdict for row in check(config)}["rewards"] == "ok"


def test_the_gate_refuses_a_reward_that_changes_the_process(with_reward) -> None:
    source = f"import torch\ndef score(batch):\n    torch.set_default_dtype(torch.float64)\n    return {LIGHT}\n"
    with pytest.raises(RewardError, match="reward 'mine' changed torch's default dtype") as caught:
        train(with_reward(source))
    assert "process: true" in str(caught.value)


def test_iterations_without_scores_are_skipped_and_counted(with_reward, tmp_path) -> None:
    config = with_reward(counting("if len(CALLS) in (2, 3): return [None] * len(batch)"), gate="off")
    config["train"]["iterations"] = 4
    run = train(config, run_dir=tmp_path / "run")
    counted = [row.get("reward/skipped_iterations") for row in run.metrics]
    assert counted == [1.0, 2.0, None, None]
    assert [row["iteration"] for row in run.metrics] == [1, 2, 3, 4]
    assert run.metrics[0]["actor/updates"] == 0
    assert run.metrics[2]["actor/updates"] == 2


def test_three_in_a_row_end_the_run_with_the_reason(with_reward, tmp_path) -> None:
    config = with_reward(counting("if len(CALLS) > 1: raise ValueError('no model')"), gate="off")
    config["train"]["iterations"] = 9
    with pytest.raises(RewardError, match="none of the iteration's 8 samples has a reward") as caught:
        train(config, run_dir=tmp_path / "run")
    assert "ValueError: no model" in caught.value.what
    assert "3rd time in a row" in caught.value.what


def test_a_validation_without_scores_is_skipped_and_the_report_is_written(with_reward, tmp_path) -> None:
    config = with_reward(counting("if len(CALLS) == 1: return [None] * len(batch)"), gate="off")
    config["train"]["iterations"] = 1
    run = train(config, run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    assert run.last_validation is not None
    assert run.last_validation.row()["val/reward/skipped_validations"] == 1
