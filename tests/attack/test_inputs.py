"""Inputs of every kind, most of them one mutation away from a valid one: each trains rightly or is refused in short."""

from __future__ import annotations

from pathlib import Path

import cases
import config_cases
import pytest
import yaml
from cases import Case

SHARDS = range(4)


@pytest.fixture(scope="session")
def resolved(server, models, tmp_path_factory):
    """A valid configuration with every key written out; paths are relative, as in the base."""
    folder = tmp_path_factory.mktemp("resolved")
    cases.write(Case("base"), folder, models)
    printed = server.run(["config", "run.yaml"], folder)
    assert printed.code == 0, printed.said
    tree = yaml.safe_load(printed.out)
    return {**tree, "model": {**tree["model"], "path": "model"}, "data": {**tree["data"], "path": "prompts.txt"}}


@pytest.mark.full
@pytest.mark.parametrize("shard", SHARDS)
def test_configurations_and_overrides(attack, resolved, shard) -> None:
    attack("configurations", config_cases.configs(resolved), 150, shard).finish()


@pytest.mark.ci
def test_some_configurations(attack, resolved) -> None:
    attack("configurations", config_cases.configs(resolved), 8).finish()
