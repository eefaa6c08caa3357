"""What `omni-rl new` writes works as generated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from omni_rl.contracts.schema import Config
from omni_rl_testing.new_plugin import kinds, new_plugin

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "plugin-template"
KINDS = kinds()
KEYS = {kind: "AuraFlowPipeline" if kind == "model" else "sharp_edges" for kind in KINDS}
SECTIONS = {"model": ("model", "plugin"), "engine": ("rollout", "engine")}
"""Of a configuration, and the key in it that names the plugin; of the other kinds: the kind, and name."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def package(kind: str, tmp_path: Path) -> Path:
    return new_plugin(kind, "sharp-edges", tmp_path)


def test_the_set_of_files(kind: str, package: Path) -> None:
    assert package.name == "omni-rl-sharp-edges"
    fixtures = {"src/omni_rl_sharp_edges/conformance.py"} if kind == "model" else set()
    assert {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()} == fixtures | {
        "README.md",
        "pyproject.toml",
        "src/omni_rl_sharp_edges/__init__.py",
        "src/omni_rl_sharp_edges/py.typed",
        "tests/test_sharp_edges.py",
    }


def test_no_placeholder_is_left(package: Path) -> None:
    for path in package.rglob("*"):
        if path.is_file():
            assert not re.search(r"\{\{|\{%|cookiecutter|TODO|FIXME|XXX", path.read_text(encoding="utf-8")), path
        assert not re.search(r"[{}%]|cookiecutter", path.name)


def test_metadata(kind: str, package: Path) -> None:
    metadata = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["name"] == "omni-rl-sharp-edges"
    assert list(metadata["entry-points"][f"omni_rl.{kind}s"]) == [KEYS[kind]]
    assert metadata["entry-points"]["omni_rl.contract"] == {"2": "omni_rl_sharp_edges"}


def test_the_readme_shows_a_section(kind: str, package: Path) -> None:
    snippet = re.search(r"```yaml\n(.*?)```", (package / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet
    section, name = SECTIONS.get(kind, (kind, "name"))
    found = yaml.safe_load(snippet[1])
    assert found[section][name] == ("omni-rl-sharp-edges" if kind == "model" else "sharp_edges")
    minimal = {"model": {"path": "p"}, "algorithm": {"name": "a"}, "reward": "r", "data": {"path": "d.txt"}}
    Config.model_validate({**minimal, **found})


def test_the_readme_says_what_to_edit_how_to_test_and_how_to_publish(package: Path) -> None:
    """In this order, in few words, and of files that are there."""
    readme = (package / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", readme, re.MULTILINE) == ["Make it yours", "Test it", "Publish it"]
    assert len(readme.splitlines()) <= 50
    named = re.findall(r"`((?:src|tests)/[^`]*|[\w.]+\.toml)`", readme)
    assert {"src/omni_rl_sharp_edges/__init__.py", "tests/"} <= {*named}
    assert [path for path in named if not (package / path).exists()] == []


@pytest.mark.ci
def test_its_own_tests_pass(package: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package / "src"), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ci
@pytest.mark.parametrize(("package", "travels"), [("core", False), ("plugins/omni-rl-testing", True)])
def test_the_template_is_in_the_wheel_of_omni_rl_testing_alone(package: str, travels: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / package, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name.partition("/_template/")[2] for name in archive.namelist() if "/_template/" in name}
    files = {str(path.relative_to(TEMPLATE)) for path in TEMPLATE.rglob("*") if path.is_file()}
    assert len(files) > 10
    assert held == (files if travels else set())
