"""``tiny-random/NAME``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from omni_rl.errors import ModelError
from omni_rl_tiny import kept, tiny_random

NAME = "AuraFlowPipeline"
BUILD = f"from omni_rl_tiny import tiny_random; print(tiny_random({NAME!r}))"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "omni-rl" / "tiny-random"


def test_it_is_built_once_and_draws(cache: Path) -> None:
    folder = tiny_random(NAME)
    assert folder.parent.parent == cache
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert tiny_random(NAME) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    call = json.loads((folder / "call.json").read_text())
    (picture,) = pipeline("a sign", **call, num_inference_steps=2, output_type="np").images
    assert picture.shape == (call["height"], call["width"], 3)


@pytest.mark.ci
def test_processes_that_build_it_at_once_agree(cache: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=300)[0].strip() for process in both)
    assert first == second == str(tiny_random(NAME))
    assert [path.name for path in Path(first).parent.iterdir()] == [NAME]


@pytest.mark.parametrize("name", ["AuraFlowPipelin", "../tiny-random", "", "a/b"])
def test_a_name_that_is_none(cache: Path, name: str) -> None:
    cache.mkdir(parents=True)
    with pytest.raises(ModelError) as error:
        tiny_random(name)
    assert "WanPipeline-two-experts" in str(error.value)
    assert ("Did you mean 'AuraFlowPipeline'?" in str(error.value)) == (name == "AuraFlowPipelin")


def test_other_sources_make_other_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept._parent()
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "flux.py").write_text("layers = 3")
    monkeypatch.setattr(kept, "SOURCES", tmp_path / "sources")
    assert kept._parent().parent == before.parent
    assert kept._parent() != before
