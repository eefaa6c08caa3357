"""The same plugins in another process, from JSON."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from omni_rl.contracts.spec import RunSpec
from omni_rl.errors import PluginError
from omni_rl.plugins import runspec
from omni_rl.plugins.local import Registry, load_file
from omni_rl.plugins.manager import Hooks, answers
from omni_rl.plugins.runspec import layers_of, read_file, rebuild, resolve_part

LOCAL = """
from omni_rl import hookimpl


class Halving:
    @hookimpl
    def compute_advantages(self, rewards):
        return rewards / 2


@hookimpl
def predict(x):
    return {"x": x["x"] + 100}


OMNI_RL = {"algorithms": {"halving": Halving}}
"""

CORE = """
from omni_rl import hookimpl


@hookimpl
def sde_window(steps):
    return steps
"""

CHILD = """
import json, sys
from omni_rl.plugins.manager import Hooks, answers
from omni_rl.contracts.spec import RunSpec
from omni_rl.plugins.runspec import rebuild

spec = RunSpec.from_json(sys.stdin.read())
manager = rebuild(spec)
hooks = Hooks(manager)
print(json.dumps({
    "answers": [list(each) for each in answers(manager)],
    "advantages": hooks.compute_advantages(rewards=4.0, uid=None, components={}, weights={}),
    "predict": hooks.predict(model=None, x={"x": 1}, t=0, conditioning={}, call={}, step=None),
    "config": spec.config,
}))
"""


@pytest.fixture
def spec(install, tmp_path, monkeypatch):
    install("good")
    (tmp_path / "core_of_the_test.py").write_text(CORE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "mine.py"
    path.write_text(LOCAL)
    registry = Registry([load_file(path)])
    return RunSpec(
        core=("core_of_the_test",),
        parts=(
            resolve_part(registry, "models", "FakePipeline"),
            resolve_part(registry, "algorithms", "fake_algorithm", options={"scale": 3.0}),
        ),
        files=(read_file(path),),
        config={"rollout": {"steps": 4, "call": {"limit": math.inf}}},
    )


def test_json_holds_names_versions_and_text_and_comes_back_equal(spec):
    assert RunSpec.from_json(spec.to_json()) == spec
    plain = json.loads(spec.to_json())
    assert plain["parts"][0] == {
        "kind": "models",
        "key": "FakePipeline",
        "distribution": "omni-rl-fake-good",
        "version": "1.0",
        "options": {},
    }
    assert plain["files"][0]["content"] == LOCAL


@pytest.mark.ci
def test_another_process_rebuilds_the_same_manager(spec, tmp_path):
    (tmp_path / "mine.py").unlink()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=spec.to_json(),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    here = [list(each) for each in answers(rebuild(spec))]
    assert there["answers"] == here
    assert there["advantages"] == 12.0
    assert there["predict"] == {"x": 101}
    assert there["config"] == spec.config


def test_a_local_file_may_provide_a_part(spec):
    registry = Registry([runspec.load_file(file) for file in spec.files])
    part = resolve_part(registry, "algorithms", "halving")
    assert part.distribution is None
    hooks = Hooks(rebuild(spec.model_copy(update={"parts": (part,)})))
    assert hooks.compute_advantages(rewards=4.0, uid=None, components={}, weights={}) == 2.0


def test_parts_without_hooks_are_recorded_and_loaded_on_demand(install):
    install("slow")
    part = resolve_part(Registry(), "rewards", "fake_slow")
    assert part.version == "1.0"
    assert layers_of(RunSpec(parts=(part,))) == []


def test_another_version_is_refused(spec):
    parts = tuple(part.model_copy(update={"version": "0.9"}) for part in spec.parts)
    with pytest.raises(PluginError, match=r"omni-rl-fake-good 0\.9, but .* omni-rl-fake-good 1\.0") as caught:
        rebuild(spec.model_copy(update={"parts": parts}))
    assert "pip install 'omni-rl-fake-good==0.9'" in str(caught.value)


def test_a_distribution_that_is_not_installed_is_refused(spec):
    parts = (spec.parts[0].model_copy(update={"distribution": "omni-rl-absent"}),)
    with pytest.raises(PluginError, match=r"pip install 'omni-rl-absent==1\.0'"):
        rebuild(spec.model_copy(update={"parts": parts}))


def test_another_omni_rl_is_refused(spec):
    with pytest.raises(PluginError, match=r"pip install 'omni-rl==99\.0'"):
        rebuild(spec.model_copy(update={"omni_rl": "99.0"}))


def test_a_changed_local_file_is_refused(spec):
    changed = spec.files[0].model_copy(update={"content": LOCAL + "\n# changed"})
    with pytest.raises(PluginError, match="does not have the recorded hash"):
        rebuild(spec.model_copy(update={"files": (changed,)}))


def test_text_that_is_no_runspec_is_refused():
    with pytest.raises(ValidationError, match="extra"):
        RunSpec.from_json('{"pickle": "gASV"}')
