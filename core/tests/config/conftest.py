"""Fake distributions as they lie in a real environment, and a small pipeline folder and configuration to resolve."""

from __future__ import annotations

import json
import sys
from textwrap import dedent

import pytest

from omni_rl.plugins.discovery import all_offers

FAKE_CORE = '''
from pydantic import BaseModel, ConfigDict


class Engine:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        workers: int = 1


class Backend:
    pass


def local():
    """Runs here."""


def read_text(path, prompt_column):
    return []


class Bright:
    def __init__(self, config=None):
        self.config = config


class Judge:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        threshold: float = 0.5
        file: "Path | None" = None

    def __init__(self, config):
        self.config = config


from pathlib import Path

Judge.Config.model_rebuild()


class Board:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        every: int = 1
'''

FAKE_MODEL = """
from omni_rl import hookimpl


@hookimpl
def defaults(architecture):
    return {
        "rollout": {"steps": 20, "group_size": 4, "call": {"guidance": 4.0, "negative_prompt": architecture}},
        "model": {"lora": {"targets": ["to_q", "to_k"]}},
    }
"""

FAKE_ALGORITHM = """
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from omni_rl import hookimpl
from omni_rl.contracts.traits import AlgorithmTraits


class Kl(BaseModel):
    model_config = ConfigDict(extra="forbid")
    beta: float = 0.0
    of: Literal["mean", "sample"] = "mean"


class FakeGRPO:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        clip_range: float = Field(1e-3, gt=0)
        window: int | None = None
        kl: Kl = Field(default_factory=Kl)

    def __init__(self, config):
        self.config = config

    @staticmethod
    @hookimpl
    def defaults():
        return {"rollout": {"steps": 30, "group_size": 6}, "algorithm": {"clip_range": 2e-3}}


class Lonely:
    @hookimpl
    def traits(self):
        return AlgorithmTraits(needs_groups=False)
"""

FAKE_PAIR = """
from omni_rl import hookimpl


@hookimpl
def defaults():
    return {"rollout": {"steps": 40}}
"""

CONFIG = """\
seed: 7
model:
  path: pipeline
algorithm:
  name: fake_grpo
reward: fake_bright
data:
  path: prompts.txt
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a fake distribution: its name, its entry points by group, and the code of its one module.

    Plugins that are really installed are hidden.
    """
    really_installed = {offer.distribution for offer in all_offers()}
    monkeypatch.setenv("OMNI_RL_DISABLE", ",".join(really_installed))

    def install(name, points, code="", version="1.0"):
        module = name.replace("-", "_") + "_code"
        site = tmp_path / "site" / name
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = {**points, "contract": {"2": ""}}
        lines = [
            f"[omni_rl.{group}]\n" + "\n".join(f"{key} = {module}{target}" for key, target in keys.items())
            for group, keys in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (site / f"{module}.py").write_text(dedent(code))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


@pytest.fixture
def core(distribution):
    """What core offers, without torch; hides an installed omni-rl."""
    distribution(
        "omni-rl",
        {
            "engines": {"diffusers": ":Engine"},
            "backends": {"torch": ":Backend"},
            "launchers": {"local": ":local"},
            "datasets": {"txt": ":read_text"},
            "rewards": {"fake_bright": ":Bright", "fake_judge": ":Judge"},
            "trackers": {"fake_board": ":Board"},
        },
        FAKE_CORE,
    )


@pytest.fixture
def algorithm(distribution):
    """Two algorithms with options and defaults."""
    keys = {"fake_grpo": ":FakeGRPO", "fake_lonely": ":Lonely"}
    distribution("omni-rl-fake-grpo", {"algorithms": keys}, FAKE_ALGORITHM, version="0.3")


@pytest.fixture
def model(distribution):
    """A model plugin for the architecture of ``pipeline``."""
    distribution("omni-rl-fake-model", {"models": {"FakePipeline": ""}}, FAKE_MODEL)


@pytest.fixture
def pair(distribution):
    """A pair of the two."""
    distribution("omni-rl-fake-pair", {"pairs": {"FakePipeline:fake_grpo": ""}}, FAKE_PAIR)


def write_pipeline(folder, architecture="FakePipeline"):
    """A folder that looks like a diffusers pipeline as far as the configuration looks."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": architecture}))
    return folder


@pytest.fixture
def project(tmp_path, core, algorithm, monkeypatch):
    """A folder with a pipeline, prompts and ``config.yaml``; it is the working directory."""
    folder = tmp_path / "project"
    write_pipeline(folder / "pipeline")
    (folder / "prompts.txt").write_text("a sign\n")
    (folder / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def written(project):
    """Write ``config.yaml``: the base configuration with further lines, or other text altogether."""

    def write(more="", base=CONFIG):
        (project / "config.yaml").write_text(base + dedent(more))
        return "config.yaml"

    return write
