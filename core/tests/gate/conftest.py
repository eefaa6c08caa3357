"""Runs on tiny pipelines, with or without a fault in a local plugin file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from omni_rl.contracts.verdicts import Row
from omni_rl.run.start import check
from omni_rl_tiny import pipelines

HEAD = """
import copy
import torch
import omni_rl_qwen_image as qwen
from omni_rl import hookimpl
from omni_rl.sampling import denoise
from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.types import SigmaTable
"""

Configure = Callable[..., dict[str, Any]]


@pytest.fixture
def configure(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Configure:
    """A configuration that trains the architecture's tiny pipeline; ``fault`` is the source of a local plugin file."""

    def make(architecture: str = "QwenImagePipeline", fault: str = "", **sections: Any) -> dict[str, Any]:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a sign that says 7\nhello world\n")
        config: dict[str, Any] = {
            "model": {"path": str(tiny_folder(architecture)), "lora": {"rank": 2}},
            "algorithm": {"name": "flow_grpo"},
            "rollout": {
                "steps": 3,
                "prompts": 2,
                "group_size": 3,
                "batch_size": 6,
                "call": pipelines.CALLS.get(architecture, {}),
            },
            "reward": "brightness",
            "data": {"path": str(prompts)},
            "device": "cpu",
        }
        for name, section in sections.items():
            merged = isinstance(section, dict) and isinstance(config.get(name), dict)
            config[name] = {**config[name], **section} if merged else section
        if fault:
            file = tmp_path / "fault.py"
            file.write_text(HEAD + dedent(fault))
            config["plugins"] = [str(file)]
        return config

    return make


@pytest.fixture
def judged(configure: Configure) -> Callable[..., dict[str, Row]]:
    """The gate's rows by name; arguments as of ``configure``."""
    return lambda *args, **kwargs: {row.name: row for row in check(configure(*args, **kwargs))}


@pytest.fixture
def assert_red(judged: Callable[..., dict[str, Row]]) -> Callable[..., None]:
    """Assert that exactly the rows of ``sentences`` fail, each with a sentence that matches its pattern."""

    def check_rows(sentences: dict[str, str], *args: Any, **kwargs: Any) -> None:
        found = {name: row.detail for name, row in judged(*args, **kwargs).items() if row.verdict == "fail"}
        assert found.keys() == sentences.keys(), found
        for name, sentence in sentences.items():
            assert re.search(sentence, found[name]), f"{name}: {found[name]}"

    return check_rows


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)  # DPM-Solver
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # FLUX under autocast
        yield
