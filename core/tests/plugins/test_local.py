"""Single files as plugins, and lookups that see them first."""

from __future__ import annotations

import sys
import traceback

import pytest

from omni_rl.errors import PluginError
from omni_rl.plugins.local import Registry, declared, load_file, load_source, neighbours
from omni_rl.plugins.manager import Hooks, Layer, build_manager

REWARD = """
from __future__ import annotations

from dataclasses import dataclass

from omni_rl import hookimpl


@dataclass
class Mine:
    scale: float = 2.0


@hookimpl
def predict(x):
    return x + 1


OMNI_RL = {"rewards": {"mine": Mine}}
"""


@pytest.fixture
def write(tmp_path):
    def _write(content, name="my_reward.py"):
        path = tmp_path / name
        path.write_text(content)
        return path

    return _write


def failure(path) -> str:
    with pytest.raises(PluginError) as caught:
        load_file(path)
    return str(caught.value)


def test_a_file_is_a_plugin_and_declares_keys(write):
    module = load_file(write(REWARD))
    hooks = Hooks(build_manager([Layer("local", module, "my_reward.py")]))
    assert hooks.predict(model=None, x=1, t=None, conditioning=None, call=None, step=None) == 2
    assert declared(module)["rewards"]["mine"]().scale == 2.0


def test_a_file_is_imported_once_and_again_when_it_changed(write):
    path = write(REWARD)
    first = load_file(path)
    assert load_file(path) is first
    assert load_file(write(REWARD + "\n")) is not first


def test_two_files_of_the_same_name_are_two_modules(write, tmp_path):
    (tmp_path / "other").mkdir()
    assert load_file(write(REWARD)) is not load_file(write(REWARD, "other/my_reward.py"))


def test_an_error_names_the_user_s_own_line(write):
    path = write("import json\n\njson.loads('{')\n")
    text = failure(path)
    assert f"at {path}:3" in text
    assert "JSONDecodeError" in text
    assert f"python {path}" in text


def test_a_syntax_error_names_its_line(write):
    path = write("x = 1\ndef broken(:\n")
    text = failure(path)
    assert f"at {path}:2" in text
    assert "SyntaxError" in text


def test_a_file_that_failed_is_tried_again(write):
    path = write("raise RuntimeError('first')")
    failure(path)
    assert "first" in failure(path)
    assert str(path) not in [getattr(module, "__file__", None) for module in list(sys.modules.values())]


def test_a_second_file_beside_it_is_not_shipped_and_the_message_says_so(write):
    write("x = 1", "helper_beside_it.py")
    assert "A local plugin is one file" in failure(write("import helper_beside_it"))


def test_a_missing_file_is_named(tmp_path):
    assert f"{tmp_path / 'absent.py'} cannot be read" in failure(tmp_path / "absent.py")
    assert "/dev/zero is a device, not a regular file" in failure("/dev/zero")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.py"
    path.write_bytes(b"x = '\xff\xfe'\n")
    assert "is not Python text" in failure(path)


def test_the_coding_of_the_file_is_respected(tmp_path):
    path = tmp_path / "latin.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nNAME = 'caf\xe9'\n".encode("latin-1"))
    assert load_file(path).NAME == "caf\xe9"


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("{'reward': {}}", "Did you mean 'rewards'?"),
        ("['rewards']", "must be a mapping of kinds"),
        ("{'rewards': 3}", "must map keys to objects"),
    ],
)
def test_a_wrong_declaration_is_explained(write, declaration, expected):
    text = failure(write(f"OMNI_RL = {declaration}"))
    assert expected in text
    assert '{"rewards": {"my_reward": MyReward}}' in text


def test_text_is_imported_as_if_its_file_were_here():
    module = load_source("def fail():\n    return 1 / 0\n", "/elsewhere/reward.py")
    assert module.__file__ == "/elsewhere/reward.py"
    with pytest.raises(ZeroDivisionError) as caught:
        module.fail()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "return 1 / 0"


def test_the_registry_asks_local_files_first(install, write):
    install("good")
    module = load_file(write("OMNI_RL = {'algorithms': {'fake_algorithm': 'local'}}"))
    registry = Registry([module])
    assert registry.get("algorithms", "fake_algorithm") == ("local", module.__file__)
    found, source = registry.get("algorithms", "fake_algorithm", "omni-rl-fake-good")
    assert (found.__name__, source) == ("Algorithm", "omni-rl-fake-good 1.0")
    assert registry.get("models", "FakePipeline")[0].__name__ == "fake_good"


def test_the_registry_lists_keys_of_both_kinds(install, write):
    install("good")
    registry = Registry([load_file(write("OMNI_RL = {'models': {'MinePipeline': 1}}"))])
    assert {"FakePipeline", "MinePipeline"} <= set(registry.keys("models"))


def test_two_files_may_not_declare_one_key(write):
    first, second = (load_file(write("OMNI_RL = {'rewards': {'mine': 1}}", name)) for name in ("one.py", "two.py"))
    with pytest.raises(PluginError, match=r"reward 'mine' is declared by .*one\.py and by .*two\.py"):
        Registry([first, second])


def test_the_modules_that_a_file_imports_from_beside_it(tmp_path):
    for name, text in {
        "score.py": "import torch\nfrom helper import value\n",
        "helper.py": "import model.net\nimport score\n",
        "model/__init__.py": "",
        "model/net.py": "",
        "other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    names = [each.relative_to(tmp_path).as_posix() for each in neighbours(tmp_path / "score.py")]
    assert names == ["helper.py", "model/__init__.py", "model/net.py"]
