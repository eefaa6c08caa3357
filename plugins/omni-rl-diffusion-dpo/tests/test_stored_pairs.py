"""Pairs out of a file: pictures, their latents, and what is wrong with either."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from omni_rl.contracts.events import State
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.schema import Data
from omni_rl.errors import DataError, ModelError
from omni_rl.model.loading import load_model
from omni_rl.parallel.group import Ranks
from omni_rl_diffusion_dpo import stored_pairs
from omni_rl_diffusion_dpo.stored_pairs import StoredPairs, cache_folder, require_images
from omni_rl_testing.parts import assemble
from omni_rl_testing.source import SourceContract

START = State()


@pytest.fixture
def source_of(tiny_folder, tmp_path, monkeypatch):
    """``source_of("fingerprint", rows)`` around a tiny Stable Diffusion 3."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tiny_folder("StableDiffusion3Pipeline")
    model = load_model(folder, device=torch.device("cpu"), precision="fp32", full=True)
    call = {"height": 16, "width": 16, "max_sequence_length": 48, "guidance_scale": 1.0}
    parts = assemble(model, rollout={"steps": 3, "call": call})
    config = parts.config.model_copy(update={"data": Data(path=str(tmp_path / "pairs.jsonl"))})

    def make(fingerprint="f", rows=()):
        prompts = PromptSet(list(rows) or [PromptRow("unused")])
        return StoredPairs(config, parts.model, parts.hooks, parts.backend.policy, prompts, [], fingerprint)

    return make


@pytest.fixture
def source(source_of):
    return source_of()


def pairs(source, rows, first=0):
    return source.pairs(source.config.data.path, rows, START, first)


def picture(path, level: int, size=(16, 16)) -> str:
    rng = np.random.default_rng(level)
    Image.fromarray(rng.integers(level, level + 50, (*size, 3), dtype=np.uint8)).save(path)
    return path.name


def row(folder, **changes) -> PromptRow:
    columns = {"chosen": picture(folder / "a.png", 200), "rejected": picture(folder / "b.png", 10)}
    return PromptRow("hello", {**columns, **changes})


class TestStoredPairs(SourceContract):
    @pytest.fixture
    def make_source(self):
        return lambda sampled, **given: StoredPairs(**given)

    @pytest.fixture
    def make_model(self, tiny_folder, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        folder = tiny_folder("StableDiffusion3Pipeline")
        return lambda: load_model(folder, device=torch.device("cpu"), precision="fp32", full=True)

    @pytest.fixture
    def rows(self, tmp_path):
        levels = {"ab": (200, 10), "cd": (150, 20), "ef": (100, 30)}
        sides = [[picture(tmp_path / f"{n}.png", v) for n, v in zip(k, levels[k], strict=True)] for k in levels]
        return [PromptRow(chosen, {"chosen": chosen, "rejected": rejected}) for chosen, rejected in sides]

    @pytest.fixture
    def sections(self, tmp_path):
        call = {"height": 16, "width": 16, "max_sequence_length": 48, "guidance_scale": 1.0}
        rollout = {"prompts": 2, "steps": 3, "call": call}
        return {"rollout": rollout, "data": {"path": str(tmp_path / "pairs.jsonl")}}


def test_a_pair_is_text_schedule_and_two_sets_of_latents(source, tmp_path):
    batch = pairs(source, [row(tmp_path), row(tmp_path)], first=6)
    assert batch["uid"].tolist() == [6, 7]
    assert batch["latents", "x", "final"].shape == batch["rejected", "x", "final"].shape == (2, 4, 8, 8)
    assert not torch.equal(batch["latents", "x", "final"], batch["rejected", "x", "final"])
    assert batch["prompt_embeds"].shape[0] == 2
    assert batch["schedule", "sigmas"].shape == (2, 4)


def test_pictures_are_encoded_once(source_of, tmp_path, monkeypatch):
    """Under a name that picture, model and size give: what changes is encoded anew."""
    source = source_of()
    first = pairs(source, [row(tmp_path)])
    assert len(list(cache_folder().iterdir())) == 2
    monkeypatch.setattr(source.model.pipe.vae, "encode", None)
    again = pairs(source, [row(tmp_path)])
    assert torch.equal(again["latents", "x", "final"], first["latents", "x", "final"])
    with pytest.raises(ModelError, match="the autoencoder of StableDiffusion3Pipeline cannot encode media: TypeError"):
        pairs(source_of("another"), [row(tmp_path)])


def test_each_of_several_ranks_encodes_its_share(source, tmp_path, monkeypatch):
    """The first time that a rank waits for the others, the cache holds its own images only."""
    rows = [row(tmp_path, chosen=picture(tmp_path / f"{n}.png", n), rejected="b.png") for n in (30, 60, 90, 120)]
    first = pairs(source, rows)
    for file in cache_folder().iterdir():
        file.unlink()
    kept: list[int] = []

    def alone(work):
        work()
        kept.append(len(list(cache_folder().iterdir())))

    monkeypatch.setattr(stored_pairs, "everyone", lambda: Ranks(1, 2))
    monkeypatch.setattr(stored_pairs, "together", alone)
    again = pairs(source, rows)
    assert kept == [3]  # two chosen images, and the rejected one, which is the same
    assert torch.equal(again["latents", "x", "final"], first["latents", "x", "final"])


def test_pictures_of_another_size_are_scaled_and_cropped(source, tmp_path):
    wide = row(tmp_path, chosen=picture(tmp_path / "wide.png", 100, (40, 90)))
    assert pairs(source, [wide])["latents", "x", "final"].shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rejected": None}, "the row of 'hello' has no column rejected with an image's path"),
        ({"chosen": "missing.png"}, r"missing.png cannot be read: No such file"),
        ({"chosen": "pairs.txt"}, r"pairs.txt is not a readable image"),
    ],
)
def test_what_is_wrong_is_said(source, tmp_path, changes, says):
    (tmp_path / "pairs.txt").write_text(json.dumps({}))
    with pytest.raises(DataError, match=says):
        pairs(source, [row(tmp_path, **changes)])


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Rows of which all but the first are bad, each in its own way, at lines 1 to 6 of the file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = (tmp_path / picture(tmp_path / "whole.png", 90)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    first = Image.new("RGB", (8, 8))
    first.save(tmp_path / "moves.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "white")])
    changes = [{}, {"rejected": "c.png"}, {"chosen": "cut.png"}, {"rejected": "text.png"}, {"chosen": None}]
    rows = [row(tmp_path, **each) for each in [*changes, {"chosen": "moves.gif"}]]
    return [replace(each, line=number) for number, each in enumerate(rows, 1)]


def test_every_bad_pair_is_listed_with_its_line_before_anything_is_loaded(tmp_path, damaged):
    data = str(tmp_path / "pairs.jsonl")
    require_images(data, damaged[:1])
    with pytest.raises(DataError) as raised:
        require_images(data, damaged)
    first, *lines = raised.value.what.splitlines()
    assert first == "5 of 6 rows cannot be used:"
    says = ["c.png does not exist", "cut.png is not a readable image", "text.png is not a readable image"]
    says += ["has no column chosen with an image's path", "moves.gif holds 2 pictures, not one"]
    for number, (line, why) in enumerate(zip(lines, says, strict=True), 2):
        assert line.strip().startswith(f"{data}:{number}: ")
        assert why in line


def test_without_the_check_of_data_images_are_not_decoded(tmp_path, damaged):
    data = str(tmp_path / "pairs.jsonl")
    require_images(data, [damaged[0], damaged[2], damaged[3]], "off")
    with pytest.raises(DataError, match=r"c\.png does not exist"):
        require_images(data, damaged[:2], "off")


def test_sound_images_are_decoded_once(tmp_path, damaged, monkeypatch):
    data = str(tmp_path / "pairs.jsonl")
    require_images(data, damaged[:1])
    monkeypatch.setattr(Image, "open", None)
    require_images(data, damaged[:1])


def test_what_was_not_used_for_longest_leaves_the_cache(source, tmp_path, monkeypatch):
    pairs(source, [row(tmp_path)])
    (kept,) = {file.stat().st_size for file in cache_folder().iterdir()}
    monkeypatch.setattr(stored_pairs, "CACHE_BYTES", 2 * kept)
    pairs(source, [row(tmp_path, chosen=picture(tmp_path / "c.png", 90), rejected=picture(tmp_path / "d.png", 60))])
    assert len(list(cache_folder().iterdir())) == 2


def test_a_rows_own_arguments_count(source, tmp_path):
    """``data.call``: half the size gives latents of half the size."""
    small = PromptRow("hello", row(tmp_path).metadata, call={"height": 8, "width": 8})
    batch = pairs(source, [small])
    assert batch["latents", "x", "final"].shape == (1, 4, 4, 4)
    assert batch["call", "height"].tolist() == [8]
