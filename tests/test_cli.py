"""Every command of the installed script does what its help says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import omni_rl

COMMANDS = ["train", "resume", "check", "config", "explain", "plugins", "sample", "export", "conformance", "new"]


def test_help_lists_every_command(call: Callable[..., Any]) -> None:
    out = call("--help").out
    assert [name for name in COMMANDS if not re.search(rf"^\s+{name}\s+\S", out, re.MULTILINE)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(call: Callable[..., Any], name: str) -> None:
    outcome = call(name, "--help")
    assert outcome.code == 0
    assert f"omni-rl {name} " in outcome.out


def test_version(call: Callable[..., Any]) -> None:
    assert call("--version").out == f"omni-rl {omni_rl._version.__version__}\n"


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("plugins",), ("plugins", "--json")])
def test_what_only_informs_imports_no_torch(command: str, words: tuple[str, ...]) -> None:
    environment = os.environ | {"COVERAGE_PROCESS_START": ""}
    line = [sys.executable, "-X", "importtime", command, *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    imported = {part.rsplit("|", 1)[-1].strip().partition(".")[0] for part in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & {"torch", "diffusers", "transformers", "peft", "tensordict"} == set()


def test_plugins_lists_what_is_installed(call: Callable[..., Any]) -> None:
    out = call("plugins").out
    for word in ("flow_grpo", "omni-rl-flow-grpo", "QwenImagePipeline", "brightness", "tiny-qwen-signs"):
        assert word in out


def test_plugins_as_json(call: Callable[..., Any]) -> None:
    rows = json.loads(call("plugins", "--json").out)
    rows = rows["plugins"] if isinstance(rows, dict) else rows
    assert any("flow_grpo" in json.dumps(row) and "omni-rl-flow-grpo" in json.dumps(row) for row in rows)


def test_explain_says_who_answers(call: Callable[..., Any]) -> None:
    lines = call("explain", "QwenImagePipeline", "flow_grpo").out.splitlines()
    by_hook = {line.split()[0]: line for line in lines if line.strip()}
    assert "omni-rl-qwen-image" in by_hook["predict"]
    assert "omni-rl-flow-grpo" in by_hook["compute_loss"]
    assert "omni-rl " in by_hook["diffuse"]


def test_explain_for_a_model_without_a_plugin(call: Callable[..., Any]) -> None:
    assert "universal adapter" in call("explain", "SanaPipeline", "flow_grpo").out


def test_explain_for_an_unknown_algorithm(call: Callable[..., Any]) -> None:
    outcome = call("explain", "QwenImagePipeline", "flow_grop")
    assert outcome.code == 2
    assert "'flow_grpo'" in outcome.err


def test_config_says_where_values_come_from(call: Callable[..., Any], config_file: Callable[..., Path]) -> None:
    out = call("config", config_file(), "train.iterations=7", "--explain").out
    origin = {line.split()[0].rstrip(":"): line for line in out.splitlines() if line.strip()}
    assert "run.yaml:" in origin["train.lr"]
    assert "override" in origin["train.iterations"]
    assert "omni-rl-qwen-image" in origin["rollout.call.true_cfg_scale"]


def test_config_prints_a_configuration(call: Callable[..., Any], config_file: Callable[..., Path]) -> None:
    """What it prints resolves to itself."""
    printed = call("config", config_file()).out
    again = Path("again.yaml")
    again.write_text(printed)
    assert yaml.safe_load(call("config", again).out) == yaml.safe_load(printed)


def test_new_writes_a_package_that_imports(call: Callable[..., Any], tmp_path: Path) -> None:
    outcome = call("new", "reward", "sharpness")
    assert outcome.code == 0
    package = tmp_path / outcome.out.strip()
    environment = os.environ | {"PYTHONPATH": str(package / "src")}
    line = [sys.executable, "-c", "import omni_rl_sharpness"]
    assert subprocess.run(line, env=environment, timeout=300).returncode == 0


@pytest.mark.full
def test_every_installed_plugin_is_sound(spawn: Callable[..., Any]) -> None:
    outcome = spawn("plugins", "--check", "--seconds", 300)
    assert outcome.code == 0, outcome.out


@pytest.mark.ci
def test_check_prints_the_gate_and_writes_nothing(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = config_file()
    before = sorted(tmp_path.iterdir())
    outcome = call("check", file)
    assert outcome.code == 0
    for row in ("schedule", "text", "replay", "gradient", "weights", "rewards"):
        assert re.search(rf"^  ok    {row} ", outcome.out, re.MULTILINE), outcome.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.ci
def test_training_prints_plain_lines_where_there_is_no_terminal(
    spawn: Callable[..., Any], config_file: Callable[..., Path]
) -> None:
    outcome = spawn("train", config_file(gate="on", seed=None), "--run-dir", "run")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out + outcome.err
    assert "\r" not in outcome.out + outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "gate"
    assert len([line for line in lines if re.match(r"iter [123]/3  reward 0\.\d{3}  ratio ", line)]) == 3
    assert any(re.fullmatch(r"run directory run, seed \d+", line) for line in lines)
    assert lines[-1] == "report: run/report.html"


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.ci
def test_sample_draws_from_the_base_and_from_a_run(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Equal seeds give equal pictures, another seed others, and training shows."""
    file = config_file()
    assert call("train", file, "--run-dir", "run").code == 0
    for name, source, seed in (("a", file, 1), ("b", file, 1), ("c", file, 2), ("d", "run", 1), ("e", "run", 1)):
        outcome = call("sample", source, "a card", "snow", "-o", f"{name}.png", "-n", 2, "--seed", seed)
        assert outcome.code == 0, outcome.err
        assert outcome.out.splitlines()[-1] == f"{name}.png"
    drawn = {name: picture(tmp_path / f"{name}.png") for name in "abcde"}
    assert np.array_equal(drawn["a"], drawn["b"])
    assert np.array_equal(drawn["d"], drawn["e"])
    assert not np.array_equal(drawn["a"], drawn["c"])
    assert not np.array_equal(drawn["a"], drawn["d"])


@pytest.mark.parametrize(("output", "says"), [("x.foo", "x.png"), ("absent/x.png", "mkdir -p absent")])
def test_sample_refuses_an_impossible_file(
    call: Callable[..., Any], config_file: Callable[..., Path], output: str, says: str
) -> None:
    outcome = call("sample", config_file(), "a card", "-o", output)
    assert outcome.code == 2
    assert says in outcome.err
