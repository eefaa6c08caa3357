"""Installed observers belong to every run, and no configuration names them."""

from __future__ import annotations

import pytest

from omni_rl.config.resolve import resolve
from omni_rl.errors import PluginError

WATCHER = """
from pydantic import BaseModel, ConfigDict


class Watcher:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        every: int = 3

    def __init__(self, config):
        self.every = config.every


def plain():
    pass
"""


def test_every_installed_observer_is_part_of_the_run(project, distribution):
    distribution("omni-rl-fake-watch", {"plugins": {"watcher": ":Watcher", "module": ""}}, WATCHER)
    module, watcher = resolve("config.yaml").observers
    assert watcher.instance().every == 3
    assert module.instance().__name__ == "omni_rl_fake_watch_code"
    assert {each.source for each in (module, watcher)} == {"omni-rl-fake-watch 1.0"}


def test_a_broken_one_says_how_to_go_on_without_it(project, distribution, monkeypatch):
    distribution("omni-rl-fake-watch", {"plugins": {"watcher": ":Watcher"}}, "import no_such_module")
    with pytest.raises(PluginError) as caught:
        resolve("config.yaml")
    assert "omni-rl-fake-watch 1.0 offers observer 'watcher' but is broken" in str(caught.value)
    assert "export OMNI_RL_DISABLE=omni-rl-fake-watch" in str(caught.value)
    monkeypatch.setenv("OMNI_RL_DISABLE", "omni-rl-fake-watch", prepend=",")
    assert resolve("config.yaml").observers == []
