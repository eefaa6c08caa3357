"""Every behaviour of the table through a whole run: the right number, missing with the reason, or refused.

The reward beside it, which behaves well, answers what it answers alone.
"""

from __future__ import annotations

import json

import cases
import pytest
import reward_cases
from reward_cases import NUMBERS, REFUSED, TABLE
from tally import Tally

ONLY_HERE = {"os._exit", "sys.exit", "quit", "writes pixels", "forks by itself"}
"""Behaviours of which the words differ in a process of their own; they have tests beside the code."""

APART = [name for name in TABLE if name not in REFUSED and name not in ONLY_HERE]
SOME = ["floats", "10**400 for one", "raises what cannot be printed", "default dtype", "a generator"]


@pytest.fixture(scope="session")
def alone(server, models, tmp_path_factory):
    """What the well-behaved reward answers beside one that returns numbers."""
    folder = tmp_path_factory.mktemp("alone")
    case = reward_cases.case_of("alone", NUMBERS["floats"])
    cases.write(case, folder, models)
    ended = cases.run(case, server, folder)
    assert ended.code == 0, ended.said
    return [json.loads(line) for line in (folder / "numbers.jsonl").read_text().splitlines()]


@pytest.fixture
def tried(server, models, alone, tmp_path):
    """``tried(kind, names)``: the tally of these rows; further arguments are keys of the reward's entry."""

    def each(kind: str, names, **entry) -> Tally:
        tally = Tally(kind)
        for number, name in enumerate(names):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            case = reward_cases.case_of(name, TABLE[name], **entry)
            cases.write(case, folder, models)
            ended = cases.run(case, server, folder)
            tally.add(case, ended, reward_cases.fault(TABLE[name], ended, folder, alone))
        return tally

    return each


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(3))
def test_behaviours(tried, record_property, shard) -> None:
    tried("reward behaviours", list(TABLE)[shard::3]).finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(3))
def test_behaviours_in_a_process_of_their_own(tried, record_property, shard) -> None:
    tried("reward behaviours, process: true", APART[shard * 2 :: 6], process=True).finish(record_property)


@pytest.mark.ci
def test_some_behaviours(tried, record_property) -> None:
    tried("reward behaviours", SOME).finish(record_property)
