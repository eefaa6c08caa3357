"""The rewards by scoring models in a whole run: gate, two iterations, validation; and a user who has no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import omni_rl
from omni_rl.config.resolve import resolve
from omni_rl.contracts.media import media_of
from omni_rl.contracts.reward import RewardBatch
from omni_rl_preference_rewards import tiny

NAMES = ["clip_score", "pickscore", "hps_v2", "aesthetic", "image_reward"]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """An entry of ``reward`` for each, on tiny random weights."""
    folder = tmp_path_factory.mktemp("scoring")
    clip = str(tiny.build_clip(folder / "clip"))
    own = {
        "clip_score": {"path": clip, "scale": "cosine"},  # the cosine of random weights is often negative
        "aesthetic": {"path": clip, "head": str(tiny.build_head(folder / "head.safetensors"))},
        "image_reward": {"path": str(tiny.build_image_reward(folder / "image-reward")), "weight": 0.5},
    }
    return {name: {"name": name, "batch_size": 3, **own.get(name, {"path": clip})} for name in NAMES}


@pytest.mark.ci
def test_a_run_trains_with_all_of_them(
    recipe: dict[str, Any], entries: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """``batch_size: 3`` divides neither the groups nor the iteration, and the gate holds scores to their samples."""
    reward = {"reward": list(entries.values()), "gate": "on", "train": {**recipe["train"], "iterations": 2}}
    run = omni_rl.train({**recipe, **reward}, run_dir=tmp_path / "run")
    assert len(run.metrics) == 2
    for row in run.metrics:
        assert row["reward/missing_ratio"] == 0
        assert row["reward/std"] > 0
        assert row["actor/grad_norm"] > 0
        assert {f"reward/{name}/mean" for name in NAMES} <= row.keys()
    samples = [sample for sample in run.samples if sample.trajectory is not None]
    batch = RewardBatch(
        [media_of(dict(sample.trajectory["media"].items())) for sample in samples],
        [sample.request.prompt for sample in samples],
        [{} for _ in samples],
        [sample.request.uid for sample in samples],
    )
    weights = [entries[name].get("weight", 1.0) for name in NAMES]
    scores = [chosen.instance().score(batch) for chosen in resolve(run.directory.config_file).rewards]
    expected = [sum(w * s for w, s in zip(weights, each, strict=True)) for each in zip(*scores, strict=True)]
    assert run.last_validation.rewards.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_not_there_stops_a_run_before_its_model_is_loaded(
    name: str, entries: dict[str, dict[str, Any]], call: Callable[..., Any], config_file: Callable[..., Path]
) -> None:
    """One screen: which reward, what to download and convert, what to set."""
    outcome = call("train", config_file(reward=[{**entries[name], "path": "./absent"}]))
    assert outcome.code == 2
    assert f"reward {name!r}: there is no folder" in outcome.err
    assert "hf download" in outcome.err
    assert "\n  path: " in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_not_given_is_asked_for(
    name: str, call: Callable[..., Any], config_file: Callable[..., Path]
) -> None:
    outcome = call("train", config_file(reward=[{"name": name}]))
    assert outcome.code == 2
    assert "reward.0 needs the key 'path' (" in outcome.err
    assert "for example: path: ./" in outcome.err
