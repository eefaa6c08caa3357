"""The training script: a few updates of the real thing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rl_tiny.build import Sizes, assemble
from omni_rl_tiny.measure import sample_signs, score_pictures, score_style
from omni_rl_tiny.pretrain import Stage, encode, fit, main, schedule
from omni_rl_tiny.signs import CLEAN, HELD_OUT, TRAINED, prompt_for

SHORT = ["--iterations", "3", "--pictures", "128", "--repeats", "1", "--threads", "1"]


@pytest.mark.full
def test_script_writes_the_same_folder_twice(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    main(["--out", str(tmp_path / "here"), *SHORT])
    torch.set_num_threads(threads)
    command = [sys.executable, "-m", "omni_rl_tiny.pretrain", "--out", str(tmp_path / "there"), *SHORT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OCR score of held-out numbers: " in done.stdout
    here, there = (json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("here", "there"))
    assert here == there
    assert here["arguments"] == {"seed": 0, "threads": 1, "pictures": 128, "iterations": 3, "repeats": 1}
    assert [stage["iterations"] for stage in here["stages"]] == [3, 3]


def test_latents_are_packed_as_the_pipeline_packs_them() -> None:
    pipeline = assemble(Sizes(layers=1), [prompt_for("42")], 0)
    latents = encode(pipeline, CLEAN, 8, seed=0)
    assert latents.x.shape == (8, 32, 12)
    z = pipeline._unpack_latents(latents.x, 32, 64, pipeline.vae_scale_factor)  # (8, 3, 1, 8, 16)
    assert torch.equal(pipeline._pack_latents(z[:, :, 0], 8, 3, 8, 16), latents.x)
    numbers = [TRAINED[row] for row in latents.rows]
    with torch.no_grad():
        pictures = pipeline.image_processor.postprocess(pipeline.vae.decode(z * 0.5).sample[:, :, 0], output_type="np")
    assert score_pictures((pictures * 255).astype(np.uint8), numbers) > 0.8


def test_fitting_lowers_the_loss() -> None:
    pipeline = assemble(Sizes(layers=1), [prompt_for("42")], 0)
    losses: list[float] = []
    stage = Stage("short", CLEAN, 40, 3e-3)
    fit(pipeline, stage, encode(pipeline, CLEAN, 128, 0), 0, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_rate_warms_up_holds_and_decays() -> None:
    rates = [schedule(iteration, 1000) for iteration in range(1000)]
    assert rates[0] == 1 / 50
    assert rates[49] == rates[599] == 1.0
    assert rates[800] == pytest.approx(0.5)
    assert 0 < rates[999] < 0.01


def test_clean_pictures_are_legible_after_the_vae() -> None:
    assert score_style(assemble(Sizes(layers=1), [prompt_for("42")], 0), TRAINED, CLEAN, 1) > 0.95


def test_samples_are_a_function_of_the_seed() -> None:
    pipeline = assemble(Sizes(layers=1), [prompt_for("42")], 0)
    pipeline.set_progress_bar_config(disable=True)
    first, again, other = (sample_signs(pipeline, HELD_OUT[:3], seed, steps=2) for seed in (0, 0, 1))
    assert first.shape == (3, 32, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
