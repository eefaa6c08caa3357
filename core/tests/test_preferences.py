"""Pairs out of a file: pictures, their latents, and what is wrong with either."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_cases import GUIDED, unguided
from PIL import Image

from omni_rl.contracts.schema import Data
from omni_rl.data.prompts import PromptRow
from omni_rl.errors import DataError
from omni_rl.model.loading import load_model
from omni_rl.preferences import cache_folder, pairs, require_pictures
from omni_rl_testing.assembly import assemble


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    """What ``pairs`` reads of a run, around a tiny Stable Diffusion 3."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tiny_folder("StableDiffusion3Pipeline")
    model = load_model(folder, device=torch.device("cpu"), precision="fp32", full=True)
    call = unguided(GUIDED["StableDiffusion3Pipeline"])
    parts = assemble(model, rollout={"steps": 3, "call": call})
    config = parts.config.model_copy(update={"data": Data(path=str(tmp_path / "pairs.jsonl"))})
    return SimpleNamespace(
        config=config, model=model, hooks=parts.hooks, fingerprint="f", iteration=0, policy_version=0
    )


def data_of(run) -> str:
    return run.config.data.path


def picture(path, level: int, size=(16, 16)) -> str:
    rng = np.random.default_rng(level)
    Image.fromarray(rng.integers(level, level + 50, (*size, 3), dtype=np.uint8)).save(path)
    return path.name


def row(folder, **changes) -> PromptRow:
    columns = {"chosen": picture(folder / "a.png", 200), "rejected": picture(folder / "b.png", 10)}
    return PromptRow("hello", {**columns, **changes})


def test_a_pair_is_text_schedule_and_two_sets_of_latents(run, tmp_path):
    batch = pairs(run, data_of(run), [row(tmp_path), row(tmp_path)], first=6)
    assert batch["uid"].tolist() == [6, 7]
    assert batch["latents", "x", "final"].shape == batch["rejected", "x", "final"].shape == (2, 4, 8, 8)
    assert not torch.equal(batch["latents", "x", "final"], batch["rejected", "x", "final"])
    assert batch["prompt_embeds"].shape[0] == 2
    assert batch["schedule", "sigmas"].shape == (2, 4)


def test_pictures_are_encoded_once(run, tmp_path, monkeypatch):
    """Under a name that picture, model and size give: what changes is encoded anew."""
    first = pairs(run, data_of(run), [row(tmp_path)])
    assert len(list(cache_folder().iterdir())) == 2
    monkeypatch.setattr(run.model.pipe.vae, "encode", None)
    again = pairs(run, data_of(run), [row(tmp_path)])
    assert torch.equal(again["latents", "x", "final"], first["latents", "x", "final"])
    run.fingerprint = "another"
    with pytest.raises(TypeError):
        pairs(run, data_of(run), [row(tmp_path)])


def test_pictures_of_another_size_are_scaled_and_cropped(run, tmp_path):
    wide = row(tmp_path, chosen=picture(tmp_path / "wide.png", 100, (40, 90)))
    assert pairs(run, data_of(run), [wide])["latents", "x", "final"].shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rejected": None}, "the row of 'hello' has no column rejected with a picture's path"),
        ({"chosen": "missing.png"}, r"missing.png cannot be read: No such file"),
        ({"chosen": "pairs.txt"}, r"pairs.txt is not a readable image"),
    ],
)
def test_what_is_wrong_is_said(run, tmp_path, changes, says):
    (tmp_path / "pairs.txt").write_text(json.dumps({}))
    with pytest.raises(DataError, match=says):
        pairs(run, data_of(run), [row(tmp_path, **changes)])


def test_missing_pictures_are_missed_before_anything_is_loaded(tmp_path):
    data, rows = str(tmp_path / "pairs.jsonl"), [row(tmp_path), row(tmp_path, rejected="c.png")]
    require_pictures(data, rows[:1])
    with pytest.raises(DataError, match=r"c.png does not exist"):
        require_pictures(data, rows)
