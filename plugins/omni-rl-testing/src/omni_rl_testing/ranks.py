"""Contract tests of model plugins and backends on several ranks. See :class:`RanksContract`."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rl.contracts.types import Tensors
from omni_rl.parallel.group import STORE
from omni_rl.training.backend import TorchBackend
from omni_rl_testing.model import Inputs, Media
from omni_rl_testing.one_rank import Job, Outcome, read_rows, write_rows
from omni_rl_testing.parts import POLICY

RANKS = 2
WAIT_S = 500.0
WAYS = {"lora": (True, "replicated"), "full": (False, "sharded")}
"""What trains, and where the weights are: the two defaults of ``train.sharding``."""

SHARES = {"both": slice(4, None), "one": slice(0, 0)}
"""The rows of the second rank: those of the third prompt, or none."""

CASES = [f"{way}-{share}" for way in WAYS for share in SHARES]


@dataclass(frozen=True)
class Compared:
    """A job done by one process and by several ranks.

    Attributes:
        start: the weights before the job, by canonical name.
    """

    job: Job
    alone: Outcome
    ranks: Sequence[Outcome]
    start: Tensors


class RanksContract(Inputs):
    """Checks that training on two ranks gives the results of one process: with LoRA and replicated weights, and with
    all weights and each rank holding a part of them. It starts two processes on the CPU, which takes a minute or more.
    All fixtures have the scope ``module`` or wider, and all have defaults.

    ``pipeline_folder``, ``plugin``, ``call``, ``prompts`` and ``media``: as in
    :class:`omni_rl_testing.model.ModelContract`, with three prompts; the plugin must be a module, or an instance of a
    class that is called without arguments. Default: the toy pipeline with the universal adapter.

    ``backend``: the class or function of a backend that can be imported by its name; default: the backend ``torch``.

    ``options``: the options of the backend; None if it has none.

    Attributes:
        tolerance: largest allowed difference of a gradient's element from that of one process, relative to the norm of
            all gradients.
    """

    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls) -> Path | None:
        """The toy pipeline."""
        return None

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls) -> object:
        """The universal adapter."""
        return None

    @pytest.fixture(scope="module")
    @classmethod
    def backend(cls) -> object:
        """The backend ``torch``."""
        return TorchBackend

    @pytest.fixture(scope="module")
    @classmethod
    def options(cls) -> Mapping[str, Any] | None:
        """None."""
        return None

    @pytest.fixture(scope="module")
    @classmethod
    def all_compared(
        cls,
        tmp_path_factory: pytest.TempPathFactory,
        pipeline_folder: Path | None,
        plugin: object,
        backend: object,
        options: Mapping[str, Any] | None,
        call: dict[str, Any],
        prompts: Sequence[str],
        media: Sequence[Media],
    ) -> dict[str, Compared]:
        """Every case, done by one process and by two ranks."""
        folder = tmp_path_factory.mktemp("ranks")
        common: dict[str, Any] = {
            "folder": None if pipeline_folder is None else str(pipeline_folder),
            "plugin": None if plugin is None else _without_options(plugin),
            "backend": name_of(backend),
            "options": options,
            "call": call,
        }
        jobs = [
            Job(f"{way}-{share}", **common, lora=lora, sharding=sharding, start=str(folder / f"{way}.start"))
            for way, (lora, sharding) in WAYS.items()
            for share in SHARES
        ]
        for job in jobs:
            _write_input(job, folder, prompts[:3], media[:3])
        _run(jobs, folder)
        alone = {way: _alone(jobs, way, folder) for way in WAYS}
        return {job.name: _compared(job, alone[way_of(job)], folder) for job in jobs}

    @pytest.fixture(params=CASES)
    def compared(self, request: pytest.FixtureRequest, all_compared: dict[str, Compared]) -> Compared:
        """One case."""
        return all_compared[request.param]

    def test_gradients_are_those_of_one_process(self, compared: Compared) -> None:
        """The gradients of the first update are the sum over the rows of both ranks, also if one has no rows.

        Fix a backend: sum gradients over the ranks, and divide by the terms of the whole mini-batch. Fix ``predict`` of
        a model plugin: a velocity depends on its own row only, and all ranks call the denoisers in the same order.
        """
        expected, found = (each.gradients for each in (compared.alone, compared.ranks[0]))
        if not expected:
            pytest.skip("the backend does not show gradients; the changes of weights are compared")
        assert found.keys() == expected.keys()
        norm = float(flat(expected).norm())
        assert norm > 0
        gaps = {n: float((found[n] - value).abs().max()) for n, value in expected.items()}
        assert {n: gap / norm for n, gap in gaps.items() if gap > self.tolerance * norm} == {}

    def test_metrics_are_those_of_one_process(self, compared: Compared) -> None:
        """Metrics are means over the samples of all ranks.

        Fix ``update``: sum over the ranks before dividing.
        """
        for found, expected in zip(compared.ranks[0].figures, compared.alone.figures, strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)

    def test_all_ranks_have_equal_results(self, compared: Compared) -> None:
        """Metrics, state and the weights for the engine are equal to the bit on all ranks; otherwise the ranks part.

        Fix ``update`` and ``weights``: return the figures of all ranks, and whole tensors. Fix ``state``: sharded
        tensors, or whole ones that are the same on all ranks.
        """
        first, *others = compared.ranks
        for other in others:
            assert (other.figures, other.extra) == (first.figures, first.extra)
            for mine, theirs in ((first.state, other.state), (first.sent, other.sent)):
                assert mine.keys() == theirs.keys()
                assert [n for n, value in mine.items() if not torch.equal(value, theirs[n])] == []

    def test_weights_change_as_in_one_process(self, compared: Compared) -> None:
        """After several updates the weights, and what an engine gets of them, are those of one process.

        Fix ``update`` and ``weights``: the optimizer sees the same gradients on every rank.
        """
        alone, one = compared.alone, compared.ranks[0]
        expected, found = ({n: e.state[POLICY + n] - v for n, v in compared.start.items()} for e in (alone, one))
        change = float(flat(expected).norm())
        assert change > 0
        assert float((flat(found) - flat(expected)).norm()) <= 1e-3 * change
        assert one.sent.keys() == alone.sent.keys()
        for name, value in one.sent.items():
            torch.testing.assert_close(value, alone.sent[name], rtol=1e-3, atol=1e-3 * change)

    def test_one_process_continues_with_the_state_of_ranks(self, compared: Compared) -> None:
        """A checkpoint does not say how many ranks wrote it.

        Fix ``state`` and ``load_state``: tensors, sharded or not, with the names and shapes of one process.
        """
        one, parts = compared.ranks[0], compared.job.parts()
        assert {n: v.shape for n, v in one.state.items()} == {n: v.shape for n, v in compared.alone.state.items()}
        parts.backend.load_state({n: v.clone() for n, v in one.state.items()}, one.extra)
        tensors, extra = parts.backend.state()
        parts.close()
        assert extra == one.extra
        assert tensors.keys() == one.state.keys()
        assert [n for n, value in tensors.items() if not torch.equal(value, one.state[n])] == []


def on_ranks(suite: type) -> type[RanksContract]:
    """The class :class:`RanksContract` with the fixtures of a class that inherits
    :class:`omni_rl_testing.model.ModelContract`, without its tests.
    """
    own = dir(RanksContract)
    hidden = {name: None for name in dir(suite) if name.startswith("test_") and name not in own}
    marks = {"__doc__": RanksContract.__doc__, "__module__": suite.__module__}
    return type(f"{suite.__name__}OnRanks", (suite, RanksContract), {**hidden, **marks})


def name_of(found: object) -> str:
    """The module or ``module:attribute`` by which another process imports it; of an instance, its class."""
    if isinstance(found, ModuleType):
        return found.__name__
    kind = found if inspect.isclass(found) or inspect.isfunction(found) else type(found)
    assert kind.__module__ != "__main__"
    return f"{kind.__module__}:{kind.__qualname__}"


def _without_options(plugin: object) -> str:
    """The name of a model plugin, which another process imports."""
    if hasattr(type(plugin), "Config"):
        pytest.skip("a model plugin with options cannot be built in another process")
    return name_of(plugin)


def way_of(job: Job) -> str:
    """A key of ``WAYS``."""
    return job.name.partition("-")[0]


def flat(tensors: Tensors) -> torch.Tensor:
    """(P,) float64, all tensors in the order of their names."""
    return torch.cat([value.double().flatten() for _, value in sorted(tensors.items())])


def _write_input(job: Job, folder: Path, prompts: Sequence[str], media: Sequence[Media]) -> None:
    """Write the weights with which the job begins, and the rows of each rank; jobs of one way have the same."""
    shared = folder / f"{way_of(job)}.rows"
    if not shared.exists():
        parts = job.parts(prompts=prompts, media=media)
        if not getattr(parts.backend, "trains_on_ranks", False):
            pytest.skip("the backend does not train on several ranks")
        parts.nudge()
        parts.sync()
        batch = parts.batch()
        save_file({POLICY + n: value for n, value in parts.trained().items()}, job.start)
        write_rows(shared, batch, slice(None))
        parts.close()
    batch = read_rows(shared)
    second = SHARES[job.name.partition("-")[2]]
    write_rows(folder / f"{job.name}-0.rows", batch, slice(0, second.start or None))
    write_rows(folder / f"{job.name}-1.rows", batch, second)


def _run(jobs: Sequence[Job], folder: Path) -> None:
    """Let all ranks do all jobs."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    common = {STORE: str(folder / "store"), "WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    processes = [_start(folder, number, common) for number in range(RANKS)]
    try:
        codes = [process.wait(WAIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = "\n".join((folder / f"said-{number}.txt").read_text(errors="replace")[-4000:] for number in range(RANKS))
    assert codes == [0] * RANKS, said


def _start(folder: Path, number: int, common: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **common, "RANK": str(number), "LOCAL_RANK": str(number)}
    command = [sys.executable, "-m", "omni_rl_testing.one_rank", str(folder)]
    with (folder / f"said-{number}.txt").open("wb") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def _alone(jobs: Sequence[Job], way: str, folder: Path) -> Outcome:
    """The job of this process with all rows, which are the same for every share."""
    job = next(job for job in jobs if way_of(job) == way)
    return job.outcome(read_rows(folder / f"{way}.rows"))


def _compared(job: Job, alone: Outcome, folder: Path) -> Compared:
    ranks = [Outcome.read(folder / f"{job.name}-{number}") for number in range(RANKS)]
    start = {name.removeprefix(POLICY): value for name, value in load_file(job.start).items()}
    return Compared(job, alone, ranks, start)
