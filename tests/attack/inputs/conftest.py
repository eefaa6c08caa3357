"""The warm process, model folders, and the loop that every kind of input goes through."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import cases
import folder_cases
from audit import Watched, told
from cases import Case
from forked import Server
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from tally import Tally

Attack = Callable[..., Tally]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The pipelines of the cases: ``tiny`` takes text, ``edit`` an image."""
    from omni_rl_tiny import build_random, pipelines

    folder = tmp_path_factory.mktemp("models")
    return {"tiny": build_random(folder / "tiny"), "edit": pipelines.build("FluxKontextPipeline", folder / "edit")}


@pytest.fixture(scope="session")
def server(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The warm process, which has trained once."""
    folder = tmp_path_factory.mktemp("warm")
    with Server() as running:
        cases.write(Case("warm"), folder, models)
        ended = running.warm(["train", "run.yaml", "--run-dir", "out"], folder)
        assert ended.code == 0, ended.said
        yield running


@pytest.fixture
def attack(server: Server, models: Mapping[str, Path], tmp_path: Path) -> Attack:
    """``attack(kind, fixed, strategy, count, number)``: tries fixed cases and ``count`` draws of a seed."""

    def tried(kind: str, fixed: Sequence[Case], strategy: SearchStrategy[Case], count: int, number: int = 0) -> Tally:
        tally, room = Tally(kind), tmp_path / "cases"
        room.mkdir(exist_ok=True)
        folder_cases.secret(models["tiny"], tmp_path / "secret")
        with Watched(tmp_path / "secret") as watched:

            @seed(number)
            @settings(
                max_examples=count,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def each(case: Case) -> None:
                _try(case, server, models, room, tally, watched)

            for case in fixed:
                _try(case, server, models, room, tally, watched)
            each()
        return tally

    return tried


def _try(case: Case, server: Server, models: Mapping[str, Path], room: Path, tally: Tally, watched: Watched) -> None:
    folder = room / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cases.write(case, folder, models)
    log = room / "log"
    log.unlink(missing_ok=True)
    watched.touched()
    hook = ("inputs.audit:record", {"log": str(log), "models": [str(folder / "model")], "around": str(room.parent)})
    ended = cases.run(case, server, folder, (hook,))
    wrong = cases.fault(case, ended, folder)
    forbidden = [*told(log), *(["reads what lies outside the folder"] if watched.touched() else [])]
    tally.add(case, ended, forbidden[0] if forbidden else wrong)
