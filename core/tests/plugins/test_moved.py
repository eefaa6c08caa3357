"""Plugins that were written for contract 1 are told where its names are now."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from omni_rl.errors import PluginError
from omni_rl.plugins import discovery, moved
from omni_rl.plugins.discovery import Offer, find, load
from omni_rl.plugins.local import load_source

FACADES = [f"omni_rl.authoring.{room}" for room in ("data", "engine", "model", "reward")]
CONTRACT_1 = json.loads((Path(__file__).parent / "contract_1_names.json").read_text())
"""Every public module of contract 1, with the public names in it."""

FIRST = [
    "  Imports to change (all of them: docs/migration.md):",
    "    omni_rl.randomness is now omni_rl.schedulers.randomness",
    "    omni_rl.types.Policy is now omni_rl.contracts.interfaces.Policy",
    "    omni_rl.types.Streams is now omni_rl.contracts.types.Streams",
]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    try:
        return bool(import_module(name))
    except ModuleNotFoundError as error:
        if not name.startswith(f"{error.name}"):
            raise
    module, _, attribute = name.rpartition(".")
    return bool(module) and hasattr(import_module(module), attribute)


@pytest.mark.parametrize("old", moved.moved())
def test_a_new_name_is_there(old):
    new = moved.moved()[old]
    assert new is None or resolves(new), f"moved.json: {old} -> {new}"


@pytest.mark.parametrize("module", CONTRACT_1)
def test_a_name_of_contract_1_leads_somewhere(module):
    """Give what moved on or went since a row in moved.json: its new name, or null; then: python tools/reference.py"""
    targets = [moved.new_path(module), *(moved.new_path(module, name) for name in CONTRACT_1[module].split())]
    assert [new for new in targets if new is not None and not resolves(new)] == []


def test_what_a_facade_exports_is_named_by_its_public_path():
    """Lint refuses the private path of such a name in a plugin, so it needs a row of its own in moved.json."""
    names = [f"{facade}.{name}" for facade in FACADES for name in exports(facade)]
    public = {id(attribute_of(name)): name for name in names}
    targets = {moved.new_path(module, name) for module, names in CONTRACT_1.items() for name in names.split()}
    private = {new for new in targets if new and new not in public.values() and id(attribute_of(new)) in public}
    assert private == set()


def exports(facade: str) -> list[str]:
    return [name for name in dir(import_module(facade)) if not name.startswith("_")]


def attribute_of(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute, None)


def test_old_names_are_of_contract_1():
    assert {old for old in moved.moved() if old not in CONTRACT_1 and old.rpartition(".")[0] not in CONTRACT_1} == set()


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("omni_rl.types", "", "omni_rl.contracts.types"),
        ("omni_rl.types", "Streams", "omni_rl.contracts.types.Streams"),
        ("omni_rl.types", "Policy", "omni_rl.contracts.interfaces.Policy"),
        ("omni_rl", "types", "omni_rl.contracts.types"),
        ("omni_rl", "hookimpl", "omni_rl.hookimpl"),
        ("omni_rl.errors", "DataError", "omni_rl.errors.DataError"),
        ("omni_rl.gone", "", None),
        ("omni_rl.gone", "anything", None),
    ],
)
def test_the_new_path(module, name, new, monkeypatch):
    table = {**moved.moved(), "omni_rl.gone": None}
    monkeypatch.setattr(moved, "moved", lambda: table)
    assert moved.new_path(module, name) == new


def test_a_plugin_of_contract_1_is_told_its_new_imports(install, monkeypatch):
    install("first")
    monkeypatch.setattr(discovery, "CONTRACT_MAJOR", 2)
    with pytest.raises(PluginError) as caught:
        find("models", "FirstPipeline")
    said = str(caught.value).splitlines()
    assert said[0].startswith("omni-rl-fake-first 1.0 was written for contract 1; this is omni-rl ")
    assert said[1].endswith("omni-rl-fake-first with contract 2: pip install --upgrade 'omni-rl-fake-first'")
    assert said[2:] == FIRST


def test_a_plugin_that_says_2_and_imports_as_in_1_is_told_too(install):
    """Nothing but its import shows it."""
    install("first")
    with pytest.raises(PluginError) as caught:
        load(Offer("models", "FirstPipeline", "fake_first", "omni-rl-fake-first", "1.0"))
    said = str(caught.value)
    assert "ModuleNotFoundError: No module named 'omni_rl.randomness'" in said
    assert "\n".join(FIRST) in said


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "from omni_rl.policy_gradient import PolicyGradient",
            "is now omni_rl.objectives.policy_gradient.PolicyGradient",
        ),
        ("def f():\n    from omni_rl.testing import toy\nf()", "omni_rl.testing.toy is now omni_rl_testing.toy"),
        ("from omni_rl.model.guidance import no_such\nimport omni_rl.types", "now omni_rl.contracts.types"),
    ],
)
def test_a_local_file_is_told_too(content, line, tmp_path):
    path = str(tmp_path / "mine.py")
    with pytest.raises(PluginError) as caught:
        load_source(content, path)
    assert line in str(caught.value)
    assert f"at {path}:" in str(caught.value)


def test_other_failures_are_as_they_were(tmp_path):
    with pytest.raises(PluginError) as caught:
        load_source("import no_such_package\nfrom omni_rl.types import Streams", str(tmp_path / "mine.py"))
    assert "docs/migration.md" not in str(caught.value)
    assert "Install 'no_such_package' in this environment." in str(caught.value)


def test_what_is_gone_is_said_to_be(monkeypatch):
    monkeypatch.setattr(moved, "moved", lambda: {"omni_rl.a": None, "omni_rl.b": "omni_rl.contracts"})
    assert moved.advice(["import omni_rl.a"])[1:] == ["  omni_rl.a is gone"]


def test_the_lines_fit_on_a_screen():
    names = [f"name_{number}" for number in range(20)]
    lines = moved.advice([f"from omni_rl.types import {', '.join(names)}"])
    assert len(lines) == 10
    assert lines[-1] == "  and 12 more"


@pytest.mark.parametrize(
    "source", ["def f(:", "import os", "from omni_rl.run import loop", "from . import types", "x = 1"]
)
def test_nothing_is_said_of_what_did_not_move(source):
    """``omni_rl.run`` was a module and is a package."""
    assert moved.advice([source]) == []
