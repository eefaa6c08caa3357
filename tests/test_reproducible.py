"""Runs repeat to the bit, and memory settings do not change what is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from omni_rl import train

pytestmark = pytest.mark.ci

KEYS = {
    "iteration",
    "reward/mean",
    "reward/std",
    "reward/zero_std_ratio",
    "actor/ratio_mean",
    "actor/logp_absdiff_max",
    "actor/ppo_kl",
    "actor/pg_clipfrac",
    "actor/grad_norm",
    "time/rollout_s",
    "time/reward_s",
    "time/update_s",
    "time/iteration_s",
}

# A local plugin that keeps the weights and gradients of every update, before and after it.
RECORDER = """
from pathlib import Path

from safetensors.torch import save_file

from omni_rl import hookimpl


@hookimpl
def after_update(policy, iteration, update):
    tensors = {f"weight/{n}": p.detach() for n, p in policy.parameters.items()}
    tensors |= {f"gradient/{n}": p.grad for n, p in policy.parameters.items() if p.grad is not None}
    save_file(tensors, Path(__file__).with_name(f"update-{update:03d}.safetensors"))
"""

# Brightness in steps of 1/200: where rounding turns one pixel by one level, the reward must not follow.
COARSE = """
def score(batch):
    return [round(float(media["image"].data.mean()) / 255 * 200) for media in batch.media]
"""

Figures = Callable[[Path], list[dict[str, float]]]


def test_the_same_file_and_seed_give_the_same_metrics(
    spawn: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, figures: Figures
) -> None:
    """In two processes, with order-sensitive things switched on: average, adapters, several windows, a CFG branch."""
    file = config_file(
        model={"lora": {"rank": 4}},
        algorithm={"window_size": 1, "window_scope": "group"},
        rollout={"call": {"height": 32, "width": 32, "negative_prompt": "grey", "true_cfg_scale": 2.0}},
        train={"ema": {}},
    )
    for name in ("first", "second"):
        done = spawn("train", file, "--run-dir", tmp_path / name)
        assert done.code == 0, done.err
    assert len(figures(tmp_path / "first")) == 3
    assert figures(tmp_path / "first") == figures(tmp_path / "second")


def test_every_figure_that_a_run_is_watched_by_is_there(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = train(recipe, ["validation.every=2"], tmp_path / "run")
    assert [KEYS - row.keys() for row in run.metrics] == [set()] * 3
    assert ["val/reward/mean" in row for row in run.metrics] == [False, True, True]
    assert [row["iteration"] for row in run.metrics] == [1, 2, 3]


def test_no_seed_means_another_one_each_time(recipe: dict[str, Any], tmp_path: Path, figures: Figures) -> None:
    runs = [train(recipe, ["seed=null", "train.iterations=1"], tmp_path / name) for name in ("first", "second")]
    seeds = {yaml.safe_load((run.directory.path / "config.resolved.yaml").read_text())["seed"] for run in runs}
    assert len(seeds) == 2
    assert figures(tmp_path / "first") != figures(tmp_path / "second")


@pytest.fixture
def updates(recipe: dict[str, Any], tmp_path: Path) -> Callable[..., list[dict[str, torch.Tensor]]]:
    """Five iterations of two inner epochs over two mini-batches: the weights and gradients of all twenty updates."""

    def run(name: str, *overrides: str) -> list[dict[str, torch.Tensor]]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recorder.py").write_text(RECORDER)
        (folder / "coarse.py").write_text(COARSE)
        recipe["plugins"] = [str(folder / "recorder.py")]
        recipe["reward"] = [{"name": "python", "file": str(folder / "coarse.py")}]
        settings = ["train.iterations=5", "train.inner_epochs=2", "rollout.group_size=6", "rollout.batch_size=12"]
        train(recipe, [*settings, "train.lr=3e-4", *overrides], folder / "run")
        return [load_file(path) for path in sorted(folder.glob("update-*.safetensors"))]

    return run


def norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([t.double().pow(2).sum() for t in tensors]).sum().sqrt())


@pytest.mark.parametrize("size", [4, 5, 1])
def test_the_micro_batch_size_changes_memory_and_nothing_else(
    updates: Callable[..., list[dict[str, torch.Tensor]]], tiny_model: Path, tmp_path: Path, figures: Figures, size: int
) -> None:
    """Gradient norm and movement of the weights after every update, the ragged micro-batches of 5 included.

    ``eps`` lies above the gradient elements that are nothing but rounding (here 1e-8, of 1e-5): AdamW's first update
    would else make them as large as all others.
    """
    settings = [f"train.micro_batch_size={n}" for n in (12, size)]
    whole, parts = (updates(name, s, "train.eps=1e-7") for name, s in zip(("whole", "parts"), settings, strict=True))
    assert len(whole) == len(parts) == 20
    base = load_file(tiny_model / "transformer/diffusion_pytorch_model.safetensors")
    for a, b in zip(whole, parts, strict=True):
        gradients = [norm([v for n, v in each.items() if n.startswith("gradient/")]) for each in (a, b)]
        assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)
        moved = norm([a[f"weight/transformer.{n}"] - v for n, v in base.items()])
        assert norm([a[n] - b[n] for n in a if n.startswith("weight/")]) < 1e-5 * moved
    rows = [figures(tmp_path / name / "run") for name in ("whole", "parts")]
    for one, other in zip(*rows, strict=True):
        assert other["actor/grad_norm"] == pytest.approx(one["actor/grad_norm"], rel=1e-5)


@pytest.mark.parametrize(("micro_batch", "most"), [(8, 0.0), (4, 0.0), (3, 1e-6), (1, 1e-6)])
def test_replay_gives_the_log_probs_of_the_rollout(
    recipe: dict[str, Any], tmp_path: Path, micro_batch: int, most: float
) -> None:
    """To the bit when micro-batches hold the rows that were sampled together, to rounding otherwise."""
    size = max(micro_batch, 4)
    overrides = [f"rollout.batch_size={size}", f"train.micro_batch_size={micro_batch}", "train.mini_batch_prompts=null"]
    run = train(recipe, overrides, tmp_path / "run")
    assert max(row["actor/logp_absdiff_max"] for row in run.metrics) <= most
    assert all(row["actor/ratio_mean"] != 0 for row in run.metrics)


@pytest.mark.full
def test_a_compiled_denoiser_trains_as_the_eager_one(
    spawn: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, figures: Figures
) -> None:
    """With the gate on, which calls the blocks with and without gradient and in several batch sizes."""
    file = config_file(train={"iterations": 1}, gate="on")
    for word in ("false", "true"):
        done = spawn("train", file, f"train.compile={word}", "--run-dir", tmp_path / word)
        assert done.code == 0, done.err
    (eager,), (compiled,) = (figures(tmp_path / word) for word in ("false", "true"))
    assert compiled["actor/logp_absdiff_max"] == 0
    assert compiled["actor/grad_norm"] == pytest.approx(eager["actor/grad_norm"], rel=1e-4)
