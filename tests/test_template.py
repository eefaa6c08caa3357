"""What `omni-rl new` writes works as generated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from omni_rl.cli.new_plugin import kinds, new_plugin

KINDS = kinds()
KEYS = {"reward": "sharp_edges", "algorithm": "sharp_edges", "model": "AuraFlowPipeline"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def package(kind: str, tmp_path: Path) -> Path:
    return new_plugin(kind, "sharp-edges", tmp_path)


def test_the_set_of_files(package: Path) -> None:
    assert package.name == "omni-rl-sharp-edges"
    assert {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()} == {
        "README.md",
        "pyproject.toml",
        "src/omni_rl_sharp_edges/__init__.py",
        "src/omni_rl_sharp_edges/py.typed",
        "tests/test_sharp_edges.py",
    }


def test_no_placeholder_is_left(package: Path) -> None:
    for path in package.rglob("*"):
        if path.is_file():
            assert not re.search(r"\{\{|\{%|cookiecutter", path.read_text(encoding="utf-8")), path


def test_metadata(kind: str, package: Path) -> None:
    metadata = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["name"] == "omni-rl-sharp-edges"
    assert list(metadata["entry-points"][f"omni_rl.{kind}s"]) == [KEYS[kind]]
    assert metadata["entry-points"]["omni_rl.contract"] == {"1": "omni_rl_sharp_edges"}


def test_the_readme_shows_a_section(kind: str, package: Path) -> None:
    snippet = re.search(r"```yaml\n(.*?)```", (package / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet
    section = yaml.safe_load(snippet[1])[kind]
    assert section.get("name", section.get("plugin")) == ("omni-rl-sharp-edges" if kind == "model" else "sharp_edges")


@pytest.mark.ci
def test_its_own_tests_pass(package: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package / "src"), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
