"""Runs on several ranks through the real command line: the same results as one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omni_rl import train
from omni_rl.errors import UserError

pytestmark = pytest.mark.ci

LORA = {"path": "", "lora": {"rank": 2, "alpha": 4}}
GROUP_REWARD = '''
import torch


class Spread:
    """Compares the pictures of a group: the brightest gets 1, and all must be there."""

    scope = "group"

    def score(self, batch):
        uids = list(batch.uids)
        assert all(uids.count(uid) == 4 for uid in uids), uids
        level = [float(media["image"].data.mean()) for media in batch.media]
        return [float(v == max(w for w, u in zip(level, uids) if u == uid)) for v, uid in zip(level, uids)]


OMNI_RL = {"rewards": {"spread": Spread}}
'''
MOODY_REWARD = '''
import random


class Moody:
    """A judge that never says the same twice."""

    scope = "sample"

    def score(self, batch):
        return [float(random.SystemRandom().random() > 0.8) for _ in batch.uids]


OMNI_RL = {"rewards": {"moody": Moody}}
'''


def ranks(number: int) -> dict[str, Any]:
    return {"name": "torchrun", "processes": number}


@pytest.fixture
def trained(config_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``trained(name, processes, **changes)``: the folder of a finished run."""

    def run(name: str, processes: int, **changes: Any) -> Path:
        launcher = ranks(processes) if processes > 1 else {"name": "local"}
        train(config_file(launcher=launcher, **changes), run_dir=tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def alike(figures: Callable[..., Any], weights: Callable[..., Any]) -> Callable[[Path, Path], None]:
    """Two runs have the same metrics and weights but for the order of sums in fp32."""

    def compare(one: Path, other: Path) -> None:
        for row, same in zip(figures(one), figures(other), strict=True):
            assert row == pytest.approx(same, rel=1e-3, abs=3e-5)
        mine, theirs = weights(one), weights(other)
        assert mine.keys() == theirs.keys()
        moved = max(float(value.abs().max()) for name, value in mine.items() if name.endswith("exp_avg"))
        assert moved > 0
        for name, value in mine.items():
            if name.startswith("policy/"):
                # Adam divides by the gradient's own size: where this is rounding, a weight moves by up to lr
                assert torch.quantile((value - theirs[name]).abs().flatten().double(), 0.9) < 1e-4, name

    return compare


@pytest.mark.parametrize("sharding", ["replicated", pytest.param("sharded", marks=pytest.mark.full)])
@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.full)], ids=["lora", "full"])
def test_two_ranks_train_as_one_process(
    sharding: str, lora: bool, recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    changes = {"train": {"sharding": sharding}, "model": {**LORA, "path": recipe["model"]["path"]} if lora else {}}
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


def test_stored_pairs_train_as_in_one_process(
    alike: Callable[..., None], tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache, each of two ranks encodes its share of the images and finds the others'.

    The universal adapter runs the denoiser to find out about it, which ranks with sharded weights can only do together.
    """
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"a sign {n}", "chosen": f"light{n}.png", "rejected": f"dark{n}.png"} for n in range(4)]
    for number in range(4):
        for name, level in (("light", 150), ("dark", 20)):
            pixels = rng.integers(level, level + 80, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"path": str(tiny_folder("StableDiffusion3Pipeline"))},
        "algorithm": {"name": "diffusion_dpo_offline"},
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "rollout": {"steps": 4, "prompts": 4, "batch_size": 4, "call": {"height": 16, "width": 16}},
        "reward": "brightness",
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3},
        "validation": {"every": 0},
        "gate": "off",
        "device": "cpu",
    }
    for name, launcher in (("one", {"name": "local"}), ("two", ranks(2))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{name}"))
        train({**recipe, "launcher": launcher}, run_dir=tmp_path / name)
        assert len(list((tmp_path / f"cache-{name}/omni-rl/latents").iterdir())) == 8
    alike(tmp_path / "one", tmp_path / "two")


def sharing(**sizes: int) -> dict[str, Any]:
    """The section ``train`` of ranks that share each sample."""
    return {"sequence_parallel": sizes, "iterations": 2}


def test_two_ranks_that_share_each_sample_train_as_one_process(
    recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Also with a validation and the gate."""
    model = {**LORA, "path": recipe["model"]["path"]}
    changes = {"model": model, "gate": "on", "validation": {"every": 1, "prompts": 2}}
    alike(trained("one", 1, train={"iterations": 2}, **changes), trained("two", 2, train=sharing(ulysses=2), **changes))


@pytest.mark.full
def test_ranks_that_share_each_sample_train_with_one_answer_of_a_reward(
    trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    """The reward answers differently every time; with different advantages, the ranks would count different rows."""
    (tmp_path / "moody.py").write_text(MOODY_REWARD)
    changes = {"plugins": [str(tmp_path / "moody.py")], "reward": [{"name": "moody"}]}
    trained("moody", 2, train={**sharing(ulysses=2), "skip_flat_groups": True}, **changes)


@pytest.mark.full
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
def test_two_rows_of_two_ranks(
    sharding: str, trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    """Five samples of one group on two data ranks, compared with each other by their reward."""
    (tmp_path / "spread.py").write_text(GROUP_REWARD.replace("== 4", "== 5"))
    changes = {
        "plugins": [str(tmp_path / "spread.py")],
        "reward": [{"name": "spread"}],
        "rollout": {"prompts": 1, "group_size": 5},
    }
    train_one = {"iterations": 2, "mini_batch_prompts": None}
    one = trained("one", 1, train=train_one, **changes)
    alike(one, trained("four", 4, train={**train_one, **sharing(ulysses=2), "sharding": sharding}, **changes))


def test_ranks_that_cannot_share_are_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.sequence_parallel: 2 processes share each sample .* but the run has 1"):
        trained("alone", 1, train=sharing(ulysses=2))
    with pytest.raises(UserError, match=r"cannot share a sequence of transformer in equal parts"):
        trained("odd", 2, train=sharing(ulysses=2), rollout={"call": {"height": 40, "width": 40}})
    with pytest.raises(
        UserError, match=r"train.sequence_parallel.ring: diffusers has no attention for it on the device"
    ):
        trained("ring", 2, train=sharing(ring=2))


@pytest.mark.full
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
def test_uneven_shares(
    sharding: str, recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Five samples of one group on four ranks."""
    changes = {
        "train": {"sharding": sharding, "iterations": 2, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 5},
    }
    alike(trained("one", 1, **changes), trained("four", 4, **changes))


@pytest.mark.full
def test_uneven_shares_without_a_model_plugin(
    recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Decoding with the universal adapter goes through the pipeline, and one rank decodes more often than the other."""
    changes = {
        "model": {"path": recipe["model"]["path"], "plugin": "universal"},
        "train": {"sharding": "sharded", "iterations": 1, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 5, "batch_size": 1},
    }
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


@pytest.mark.full
def test_an_idle_rank(trained: Callable[..., Path], alike: Callable[..., None]) -> None:
    """Two samples on three ranks, whose weights are sharded."""
    changes = {
        "train": {"sharding": "sharded", "iterations": 2, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 2},
    }
    alike(trained("one", 1, **changes), trained("three", 3, **changes))


@pytest.mark.full
def test_a_reward_that_compares_a_group_sees_all_of_it(
    trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "spread.py").write_text(GROUP_REWARD)
    changes = {
        "plugins": [str(tmp_path / "spread.py")],
        "reward": [{"name": "spread"}],
        "rollout": {"prompts": 1},
        "train": {"mini_batch_prompts": None},
        "validation": {"every": 0, "samples_per_prompt": 4},
    }
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


@pytest.mark.full
def test_the_gate_and_validations(config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Sharded weights: one table, one line for each iteration, and a report."""
    options = {"gate": "on", "validation": {"every": 1}, "train": {"iterations": 1, "sharding": "sharded"}}
    done = spawn("train", config_file(launcher=ranks(2), **options), "--run-dir", tmp_path / "run")
    assert done.code == 0, done.out + done.err
    assert done.out.count("replayed log-probs differ") == 1
    assert done.out.count("iter 1/1") == 1
    assert (tmp_path / "run/report.html").exists()
    rows = [json.loads(line) for line in (tmp_path / "run/validation.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1]


@pytest.mark.full
def test_a_checkpoint_continues_on_another_number_of_ranks(
    trained: Callable[..., Path], alike: Callable[..., None], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    always = {"every": 1}  # a run that ends validates once more
    one = trained("one", 1, train={"iterations": 4, "sharding": "sharded"}, validation=always)
    two = trained("two", 2, train={"iterations": 2, "sharding": "sharded"}, validation=always)
    for words in (("launcher=local", "train.iterations=3"), ("launcher={name: torchrun, processes: 4}",)):
        done = spawn("resume", two, "train.iterations=4", *words)
        assert done.code == 0, done.err
    alike(one, two)
