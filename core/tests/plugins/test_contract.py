"""The contract does not change by accident, and says of every hook what an author must know."""

from __future__ import annotations

import json
import re
from importlib import import_module

import pytest

from omni_rl.plugins.contract import ORDER, SPECS


def test_the_snapshot_is_the_contract():
    snapshot = import_module("hook_snapshot")
    recorded, now = json.loads(snapshot.SNAPSHOT.read_text()), snapshot.current()
    needed = snapshot.needed_version(recorded, now)
    version = f"{needed[0]}.{needed[1]}"
    assert snapshot.without_history(recorded) == now, (
        f"The hooks in omni_rl/hookspecs.py differ from {snapshot.SNAPSHOT.name}. If meant: set the contract's "
        f"version to {version} (CONTRACT_MAJOR, _MINOR), say 'Since {version}' in the docstring of what is new; "
        "describe the change in the docs and the changelog, then run: python tools/hook_snapshot.py"
    )


def test_a_hook_says_since_when_its_signature_is_what_it_is():
    """``compute_advantages(..., weights)``: "Since 1.0; ``weights`` since 1.1"."""
    snapshot = import_module("hook_snapshot")
    assert snapshot.undocumented(json.loads(snapshot.SNAPSHOT.read_text())) == []


def test_the_documentation_shows_every_signature():
    snapshot = import_module("hook_snapshot")
    pages = sorted((snapshot.ROOT / "docs").rglob("hooks.md"))
    if not pages:
        pytest.skip("docs/ has no hooks.md yet")
    for page in pages:
        missing = snapshot.missing_from(page.read_text(), snapshot.current()["hooks"])
        assert missing == [], f"{page.name} is older than hookspecs.py; generate it anew"


PAGE = """# Hooks
## `predict`
```python
def predict(
    model: LoadedModel,
    t: Mapping[str, Any],
) -> Streams | None
```
"""
SHOWN = {"arguments": {"model": "LoadedModel", "t": "Mapping[str, Any]"}, "returns": "Streams | None"}


def test_a_signature_is_found_on_a_page_however_it_is_set():
    missing_from = import_module("hook_snapshot").missing_from
    assert missing_from(PAGE, {"predict": SHOWN}) == []
    line = "| `predict(model: 'LoadedModel', t: 'Mapping[str, Any]') -> 'Streams \\| None'` | the velocity |"
    assert missing_from(line, {"predict": SHOWN}) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("predict", {"arguments": {**SHOWN["arguments"], "y": "int"}}),
        ("predict", {"arguments": {"model": "LoadedModel"}}),
        ("predict", {"arguments": {**SHOWN["arguments"], "model": "Model"}}),
        ("predict", {"returns": "Streams"}),
        ("predict", {"returns": "Tensors | None"}),
        ("predict_twice", {}),
        ("dict", {}),
    ],
)
def test_a_page_that_is_out_of_date_is_found_out(name, change):
    assert len(import_module("hook_snapshot").missing_from(PAGE, {name: {**SHOWN, **change}})) == 1


def hook(arguments="x", returns="None", firstresult=False):
    return {"arguments": dict.fromkeys(arguments, "int"), "returns": returns, "firstresult": firstresult}


@pytest.mark.parametrize(
    ("hooks", "version"),
    [
        ({"a": hook()}, [1, 4]),
        ({"a": hook(), "b": hook()}, [1, 5]),
        ({"a": hook("xy")}, [1, 5]),
        ({}, [2, 0]),
        ({"b": hook()}, [2, 0]),
        ({"a": hook("y")}, [2, 0]),
        ({"a": hook(returns="int")}, [2, 0]),
        ({"a": hook(firstresult=True)}, [2, 0]),
    ],
)
def test_the_version_follows_the_change(hooks, version):
    old = {"contract": [1, 4], "hooks": {"a": hook() | {"changed": "1.2"}}}
    assert import_module("hook_snapshot").needed_version(old, {"contract": [1, 4], "hooks": hooks}) == version


def test_a_changed_contract_is_not_recorded_under_an_old_version(tmp_path, monkeypatch, capsys):
    snapshot = import_module("hook_snapshot")
    now, recorded = snapshot.current(), json.loads(snapshot.SNAPSHOT.read_text())
    old = {**now, "hooks": {**recorded["hooks"], "removed_hook": hook() | {"changed": "1.0"}}}
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(old))
    monkeypatch.setattr(snapshot, "SNAPSHOT", path)
    assert snapshot.main() == 1
    assert f"CONTRACT_MAJOR = {now['contract'][0] + 1}" in capsys.readouterr().out
    assert json.loads(path.read_text()) == old


def test_a_changed_hook_is_not_recorded_before_its_docstring_says_so(tmp_path, monkeypatch, capsys):
    """One argument more, the version raised, the docstring left as it was."""
    snapshot = import_module("hook_snapshot")
    now, recorded = snapshot.current(), json.loads(snapshot.SNAPSHOT.read_text())
    major, minor = now["contract"]
    loss = now["hooks"]["compute_loss"]
    arguments = {**loss["arguments"], "iteration": "int"}
    changed = {
        "contract": [major, minor + 1],
        "hooks": {**now["hooks"], "compute_loss": {**loss, "arguments": arguments}},
    }
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(recorded))
    monkeypatch.setattr(snapshot, "SNAPSHOT", path)
    monkeypatch.setattr(snapshot, "current", lambda: changed)
    assert snapshot.main() == 1
    assert f"compute_loss (since {major}.{minor + 1})" in capsys.readouterr().out
    assert json.loads(path.read_text()) == recorded
    function = snapshot.SPECS["compute_loss"].function
    monkeypatch.setattr(function, "__doc__", f"{function.__doc__} ``iteration`` since {major}.{minor + 1}.")
    assert snapshot.main() == 0
    found = json.loads(path.read_text())
    assert snapshot.without_history(found) == changed
    before = {name: hook["changed"] for name, hook in recorded["hooks"].items()}
    assert {name: hook["changed"] for name, hook in found["hooks"].items()} == {
        **before,
        "compute_loss": f"{major}.{minor + 1}",
    }


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_says_since_when_and_where_it_runs(name):
    text = " ".join((SPECS[name].function.__doc__ or "").split())
    assert re.search(r"Since \d+\.\d+", text), f"{name}: say since which contract version it exists"
    assert re.search(r"[Rr]uns in the (driver|trainer|engine)", text), f"{name}: say where it runs"


def test_every_hook_is_typed():
    for spec in SPECS.values():
        assert set(spec.function.__annotations__) == {*spec.arguments, "return"}


def test_firstresult_hooks_may_pass_and_others_return_nothing_or_collect():
    for spec in SPECS.values():
        assert spec.firstresult == spec.function.__annotations__["return"].endswith("| None")
        assert not (spec.observes and spec.firstresult)


def test_the_order_of_the_layers():
    assert ORDER == ("core", "model", "algorithm", "pair", "local", "observer")


def test_the_plugin_index_is_up_to_date(capsys):
    assert import_module("plugin_index").main(["--check"]) == 0, capsys.readouterr().out


def test_the_plugin_index_is_read_from_metadata(tmp_path):
    folder = tmp_path / "plugins/omni-rl-two"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "omni-rl-two"\n[project.entry-points."omni_rl.rewards"]\nb = "m:B"\na = "m:A"\n'
        '[project.entry-points."omni_rl.contract"]\n1 = "m"\n[project.entry-points."other"]\nc = "m:C"\n'
    )
    assert import_module("plugin_index").index(tmp_path) == {"rewards": {"a": ["omni-rl-two"], "b": ["omni-rl-two"]}}
