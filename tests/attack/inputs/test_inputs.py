"""Inputs of every kind, most of them one mutation away from a valid one: each trains rightly or is refused in short.

The lists of fixed cases are tried whole; Hypothesis draws the others, the same ones in every run.
"""

from __future__ import annotations

import cases
import config_cases
import folder_cases
import media_cases
import prompt_cases
import pytest
import yaml
from cases import Case

SHARDS = 3


@pytest.fixture(scope="session")
def resolved(server, models, tmp_path_factory):
    """A valid configuration with every key written out; paths are relative, as in the base."""
    folder = tmp_path_factory.mktemp("resolved")
    cases.write(Case("base"), folder, models)
    printed = server.run(["config", "run.yaml"], folder)
    assert printed.code == 0, printed.said
    tree = yaml.safe_load(printed.out)
    return {**tree, "model": {**tree["model"], "path": "model"}, "data": {**tree["data"], "path": "prompts.txt"}}


@pytest.fixture
def kinds(resolved, models):
    """For each kind of input, the fixed cases and the strategy of others."""
    return {
        "configurations": (config_cases.fixed(), config_cases.configs(resolved)),
        "prompt files": (prompt_cases.fixed(), prompt_cases.prompts(models)),
        "media": (media_cases.fixed(), media_cases.media(models)),
        "model folders": (
            [*folder_cases.fixed(models["tiny"]), *folder_cases.hub(models)],
            folder_cases.folders(models),
        ),
    }


DRAWN = {"configurations": 130, "prompt files": 35, "media": 35, "model folders": 70}
"""Draws of each shard."""


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", DRAWN)
def test_inputs(attack, kinds, record_property, kind, shard) -> None:
    fixed, strategy = kinds[kind]
    attack(kind, fixed[shard::SHARDS], strategy, DRAWN[kind], shard).finish(record_property)


@pytest.mark.ci
def test_some_inputs(attack, kinds, record_property) -> None:
    for number, (kind, (fixed, strategy)) in enumerate(kinds.items()):
        attack(kind, fixed[number :: len(fixed) // 2], strategy, 2, 99).finish(record_property)
