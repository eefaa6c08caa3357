from __future__ import annotations

import sys
from pathlib import Path

import pytest

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import ConfigError, PluginError
from omni_rl.rewards.builtin import PythonFunction
from omni_rl.rewards.runner import RewardSpec

BATCH = RewardBatch([{}, {}], ["a cat", "two dogs"], [{}, {"n": 2}], [7, 8])


def python_reward(file: Path, source: str, **options) -> PythonFunction:
    file.write_text(source)
    return PythonFunction(PythonFunction.Config(file=file, **options))


def test_the_function_gets_the_batch(tmp_path) -> None:
    source = "def score(batch):\n    return [len(p) + m.get('n', 0) for p, m in zip(batch.prompts, batch.metadata)]\n"
    reward = python_reward(tmp_path / "mine.py", source)
    assert reward.scope == "sample"
    assert reward.score(BATCH) == [5, 10]


def test_function_and_scope_are_options(tmp_path) -> None:
    source = "def by_uid(batch):\n    return [float(u) for u in batch.uids]\n"
    reward = python_reward(tmp_path / "mine.py", source, function="by_uid", scope="group")
    assert reward.scope == "group"
    assert reward.score(BATCH) == [7.0, 8.0]


def test_a_relative_file_is_taken_from_the_working_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("def score(batch):\n    return [None] * len(batch)\n")
    monkeypatch.chdir(tmp_path)
    assert PythonFunction(PythonFunction.Config(file="mine.py")).score(BATCH) == [None, None]


def test_a_file_with_dataclasses_loads(tmp_path) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Weights:\n"
        "    a: float = 2.0\n\ndef score(batch):\n    return [Weights().a for _ in batch.prompts]\n"
    )
    assert python_reward(tmp_path / "mine.py", source).score(BATCH) == [2.0, 2.0]


def test_two_files_of_one_name_stay_apart(tmp_path) -> None:
    rewards = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        source = f"V = {value}\ndef score(batch):\n    return [V] * len(batch)\n"
        rewards.append(python_reward(folder / "mine.py", source))
    assert [reward.score(BATCH) for reward in rewards] == [[1, 1], [2, 2]]


def test_a_file_is_executed_once_for_all_its_rewards(tmp_path) -> None:
    """Training and validation share what the file loads, and another process finds its functions by name."""
    source = "CALLS = []\ndef score(batch):\n    CALLS.append(1)\n    return [len(CALLS)] * len(batch)\n"
    training, validation = (python_reward(tmp_path / "mine.py", source) for _ in range(2))
    assert [training.score(BATCH), validation.score(BATCH)] == [[1, 1], [2, 2]]
    assert sys.modules[training._function.__module__].score is validation._function


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_through_the_runner(tmp_path, draw, runner_of, definition) -> None:
    source = f"{definition} score(batch):\n    return [m['index'] / 4 for m in batch.metadata]\n"
    runner = runner_of(RewardSpec("mine", 2.0, 3, python_reward(tmp_path / "mine.py", source)))
    runner.submit(draw(1, 4))
    assert sorted(s.value for s in runner.completed()) == [0.0, 0.5, 1.0, 1.5]


def test_a_missing_file_names_its_neighbour(tmp_path) -> None:
    (tmp_path / "my_reward.py").touch()
    with pytest.raises(ConfigError, match=r"my_rewards\.py does not exist\. Did you mean 'my_reward\.py'"):
        PythonFunction(PythonFunction.Config(file=tmp_path / "my_rewards.py"))


def test_a_file_that_is_no_python_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"notes\.txt is not a Python file"):
        python_reward(tmp_path / "notes.txt", "def score(batch): ...")


def test_a_missing_function_lists_the_files_own_functions_with_lines(tmp_path) -> None:
    source = "from math import sqrt\nfrom json import dumps\n\ndef scores(batch):\n    return []\n"
    with pytest.raises(ConfigError) as caught:
        python_reward(tmp_path / "mine.py", source)
    assert "no function 'score'. Did you mean 'scores'?" in caught.value.what
    assert "It defines: scores (line 4)." in caught.value.hint


def test_a_file_without_functions_says_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="defines no function"):
        python_reward(tmp_path / "mine.py", "x = 1\n")


def test_something_else_under_the_name(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'score' in .* is of type int, not a function"):
        python_reward(tmp_path / "mine.py", "score = 3\n")


def test_the_wrong_arguments_are_named_with_their_line(tmp_path) -> None:
    source = "\n\ndef score(images, prompts, metadata):\n    return []\n"
    with pytest.raises(ConfigError) as caught:
        python_reward(tmp_path / "mine.py", source)
    assert f"{tmp_path / 'mine.py'}:3: score(images, prompts, metadata) must take one argument" in caught.value.what
    assert "def score(batch)" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("x = 1\ny = undefined\n", 2, "NameError: name 'undefined' is not defined"),
        ("def score(batch:\n    return 1\n", 1, "SyntaxError: '(' was never closed"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError"),
        ("import sys\nsys.exit('usage: ...')\n", 2, "SystemExit: usage: ..."),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_the_line(tmp_path, source, line, text) -> None:
    with pytest.raises(PluginError) as caught:
        python_reward(tmp_path / "mine.py", source)
    assert f"{tmp_path / 'mine.py'}:{line}" in caught.value.what
    assert text in caught.value.what


def test_a_missing_module_says_what_to_install(tmp_path) -> None:
    with pytest.raises(PluginError) as caught:
        python_reward(tmp_path / "mine.py", "import surely_not_installed\n")
    assert f"{tmp_path / 'mine.py'}:1" in caught.value.what
    assert "Install 'surely_not_installed'" in caught.value.hint


def test_a_file_imports_its_neighbours(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour_of_mine.py").write_text("def value():\n    return 3.0\n")
    source = "import neighbour_of_mine\ndef score(batch):\n    return [neighbour_of_mine.value()] * len(batch)\n"
    assert python_reward(tmp_path / "mine.py", source).score(BATCH) == [3.0, 3.0]


def test_a_neighbour_of_another_file_is_not_taken_for_ones_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = "from shared_helper import V\ndef score(batch):\n    return [V] * len(batch)\n"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_helper.py").write_text(f"V = {len(name)}\n")
    python_reward(tmp_path / "one" / "mine.py", source)
    with pytest.raises(PluginError, match="another module of this name is already imported") as caught:
        python_reward(tmp_path / "two" / "mine.py", source)
    assert "Rename shared_helper.py" in caught.value.hint
