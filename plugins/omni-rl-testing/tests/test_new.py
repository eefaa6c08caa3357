"""`omni-rl new` refuses what cannot become a package, and says what to type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from omni_rl.errors import PluginError, UserError
from omni_rl_testing.new_plugin import kinds, new_plugin


def test_there_is_a_template_per_kind() -> None:
    assert sorted(kinds()) == ["algorithm", "engine", "model", "reward", "tracker"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("omni-rl-sharpness", "omni-rl new reward sharpness$"),
        ("omni_rl_sharpness", "omni-rl new reward sharpness$"),
        ("omni-rl", "repeats the prefix"),
        ("SharpEdges", "omni-rl new reward sharp-edges$"),
        ("3d", "omni-rl new reward d$"),
        ("sharp--edges", "omni-rl new reward sharp-edges$"),
        ("sharp/edges", "omni-rl new reward sharp-edges$"),
        ("../up", "omni-rl new reward up$"),
        ("", "omni-rl new reward my-plugin$"),
    ],
)
def test_a_wrong_name(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        new_plugin("reward", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("Lumina2", "lumina2"),
        ("Lumina2Pipeline", "lumina2"),
        ("StableDiffusion3Pipeline", "stable-diffusion3"),
        ("QwenImage", "qwen-image"),
        ("FLUX.2", "flux-2"),
        ("Wan2_2", "wan2-2"),
        ("LTX2", "ltx2"),
    ],
)
def test_a_model_keeps_its_number(name: str, suggested: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"omni-rl new model {suggested}$"):
        new_plugin("model", name, tmp_path)


def test_a_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'reward'"):
        new_plugin("rewards", "sharpness", tmp_path)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "omni-rl-sharp-edges").mkdir()
    with pytest.raises(UserError, match="exists already"):
        new_plugin("reward", "sharp_edges", tmp_path)
    assert list((tmp_path / "omni-rl-sharp-edges").iterdir()) == []


def test_a_missing_output_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a folder\n  mkdir -p"):
        new_plugin("reward", "sharpness", tmp_path / "absent")


def test_a_key_that_is_taken(tmp_path: Path, installed_reward: str) -> None:
    with pytest.raises(PluginError, match="already offered by omni-rl-somebody"):
        new_plugin("reward", installed_reward, tmp_path)


@pytest.fixture
def installed_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of a reward that an installed distribution offers."""
    metadata = tmp_path / "site" / "omni_rl_somebody-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: omni-rl-somebody\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[omni_rl.rewards]\nsharpness = somebody:Sharpness\n")
    monkeypatch.syspath_prepend(metadata.parent)
    return "sharpness"


def test_without_cookiecutter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cookiecutter.generate", None)
    with pytest.raises(UserError, match=r"pip install 'omni-rl\[new\]'"):
        new_plugin("reward", "sharpness", tmp_path)


def test_nothing_is_left_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cookiecutter's own entry point writes its settings and a replay file there."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    new_plugin("reward", "sharpness", tmp_path)
    assert list(home.iterdir()) == []
