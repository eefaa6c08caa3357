"""The public surface does not change by accident, and importing it imports no torch."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SNAPSHOT = importlib.import_module("surface_snapshot")
FACADES = [name for name in SNAPSHOT.modules() if SNAPSHOT._file_of(name).suffix == ".pyi"]


def test_the_snapshot_is_the_surface():
    recorded = json.loads(SNAPSHOT.SNAPSHOT.read_text())
    assert SNAPSHOT.differences(recorded, SNAPSHOT.current()) == [], (
        "The public surface changed. If meant: a removal or a changed signature needs a new CONTRACT_MAJOR; describe "
        f"it in the changelog, then run: {SNAPSHOT.COMMAND}"
    )


def test_the_facades_are_found():
    assert {"omni_rl.contracts", "omni_rl.objectives", "omni_rl.schedulers"} <= set(FACADES)
    assert {f"omni_rl.authoring.{of}" for of in ("model", "engine", "data", "reward", "tracker")} <= set(FACADES)


@pytest.mark.parametrize("name", FACADES)
def test_a_facade_gives_what_its_stub_names(name):
    facade = importlib.import_module(name)
    stub = ast.parse(Path(facade.__file__).with_suffix(".pyi").read_text())
    named = {each.name: (line.module, each.asname) for line in stub.body for each in line.names}
    assert sorted(facade.__all__) == dir(facade) == sorted(named)
    for each, (module, exported_as) in named.items():
        assert exported_as == each, "type checkers take it for an import of the stub's own"
        assert getattr(facade, each) is getattr(importlib.import_module(module), each)


@pytest.mark.parametrize("name", ["omni_rl.contracts", "omni_rl.objectives", "omni_rl.schedulers"])
def test_a_package_exports_its_own_modules_only(name):
    """import-linter does not read stubs."""
    assert {module for module in SNAPSHOT._imports(name).values() if not module.startswith(f"{name}.")} == set()


@pytest.mark.parametrize("name", [name for name in FACADES if name.startswith("omni_rl.authoring.")])
def test_no_helper_is_a_hook(name):
    """A plugin module that imports a marked function would answer the hook of its name with it."""
    facade = importlib.import_module(name)
    assert [each for each in facade.__all__ if hasattr(getattr(facade, each), "omni_rl_impl")] == []


def test_a_facade_has_nothing_else():
    with pytest.raises(ImportError, match=r"cannot import name 'sampling' from 'omni_rl.authoring.engine'"):
        exec("from omni_rl.authoring.engine import sampling")


def test_importing_the_surface_imports_no_torch():
    code = f"import sys, {', '.join(['omni_rl', 'omni_rl.errors', *FACADES])}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


OLD = {"omni_rl.x": {"f": "(a: int) -> int", "C": {"class": "()", "size": ": int"}, "T": "= int"}}


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (OLD["omni_rl.x"], []),
        ({**OLD["omni_rl.x"], "f": "(a: str) -> int"}, ["changed: omni_rl.x.f (a: int) -> int  to  (a: str) -> int"]),
        ({**OLD["omni_rl.x"], "C": {"class": "()"}}, ["gone:    omni_rl.x.C.size : int"]),
        ({**OLD["omni_rl.x"], "g": "() -> None"}, ["new:     omni_rl.x.g () -> None"]),
    ],
)
def test_differences_are_named(new, said):
    assert SNAPSHOT.differences(OLD, {"omni_rl.x": new}) == said


def test_a_name_that_went_is_found_out(tmp_path, monkeypatch, capsys):
    now = SNAPSHOT.current()
    surface = {**now, "omni_rl.contracts.types": {**now["omni_rl.contracts.types"], "Gone": "= int"}}
    path = tmp_path / "surface.json"
    path.write_text(json.dumps(surface))
    monkeypatch.setattr(SNAPSHOT, "SNAPSHOT", path)
    assert SNAPSHOT.main(["--check"]) == 1
    assert capsys.readouterr().out == (
        "gone:    omni_rl.contracts.types.Gone = int\nif meant: python tools/surface_snapshot.py\n"
    )
    assert SNAPSHOT.main([]) == 0
    assert SNAPSHOT.main(["--check"]) == 0
