"""Reward behaviours as a table: the right number, missing with a reason, or refused; a neighbour never changes."""

from __future__ import annotations

import asyncio
import io
import locale
import os
import random
import re
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import RewardError
from omni_rl.rewards.runner import RewardSpec
from omni_rl.rewards.surroundings import PROCESS, THREAD


@dataclass
class Answers:
    """Answers (or calls) what it is told to."""

    answer: object
    scope: str = "sample"

    def score(self, batch: RewardBatch):
        return self.answer(batch) if callable(self.answer) else self.answer


def neighbour(batch: RewardBatch) -> list[float]:
    """A reward that everything which a reward may change would change: pixels, metadata, dtype, grad mode."""
    weight = torch.ones((), requires_grad=True) * 2.0
    exact = weight.dtype == torch.float32 and weight.requires_grad
    light = [m["image"].data.astype(np.float64).mean() for m in batch.media]
    return [v + m["index"] if exact else -1.0 for v, m in zip(light, batch.metadata, strict=True)]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(list):
    def __len__(self) -> int:
        raise UnprintableError


class NoFloat(Fraction):
    def __float__(self) -> float:
        raise UnprintableError

    __repr__ = UnprintableError.__str__


def raises(error: BaseException):
    def score(batch: RewardBatch):
        raise error

    return score


NOT_FINITE = "which is not a finite number in fp32, for the prompt 'prompt 1'"
NUMBERS = {
    "ints and bools": ([1, 0, True, np.True_], [1.0, 0.0, 1.0, 1.0]),
    "fractions": ([Fraction(1, 4), 0.5, np.float16(0.5), np.int64(3)], [0.25, 0.5, 0.5, 3.0]),
    "None": ([None, 1.0, None, 2.0], [None, 1.0, None, 2.0]),
    "a bf16 tensor with a gradient": (torch.ones(4, dtype=torch.bfloat16, requires_grad=True), [1.0] * 4),
    "an array": (np.arange(4.0), [0.0, 1.0, 2.0, 3.0]),
    "a tuple": ((0.0, 1.0, 2.0, 3.0), [0.0, 1.0, 2.0, 3.0]),
    "a range": (range(4), [0.0, 1.0, 2.0, 3.0]),
    "the largest number in fp32": (
        [3.4028234e38, -3.4028234e38, 0.0, 1e-300],
        [3.4028234e38, -3.4028234e38, 0, 1e-300],
    ),
}
MISSING_SAMPLES = {
    "nan": (float("nan"), f"returned nan, {NOT_FINITE}"),
    "inf": (-float("inf"), f"returned -inf, {NOT_FINITE}"),
    "1e39": (1e39, f"returned 1e+39, {NOT_FINITE}"),
    "10**400": (10**400, NOT_FINITE),
    "10**5000, which Python does not print": (10**5000, f"returned <int>, {NOT_FINITE}"),
    "text": ("0.5", f"returned '0.5', {NOT_FINITE}"),
    "a list": ([0.5], f"returned [0.5], {NOT_FINITE}"),
    "a complex number": (1j, f"returned 1j, {NOT_FINITE}"),
    "a decimal": (Decimal("0.5"), NOT_FINITE),
    "a tensor": (torch.tensor(0.5), NOT_FINITE),
    "a number that raises": (NoFloat(1, 2), f"returned <NoFloat>, {NOT_FINITE}"),
}
MISSING_CALLS = {
    "too short": ([1.0] * 3, "returned 3 scores for 4 samples (first prompt: 'prompt 1')"),
    "too long": (np.zeros(5), "returned 5 scores for 4 samples"),
    "endless": (range(10**12), "returned 1000000000000 scores for 4 samples"),
    "empty": ([], "returned 0 scores for 4 samples"),
    "one number": (0.5, "returned 0.5 (float) for 4 samples"),
    "a scalar array": (np.float32(0.5), "(float32) for 4 samples"),
    "a scalar tensor": (torch.tensor(0.5), "(Tensor) for 4 samples"),
    "None": (None, "returned None (NoneType) for 4 samples"),
    "text": ("high", "returned 'high' (str) for 4 samples"),
    "bytes": (b"1234", "(bytes) for 4 samples"),
    "a mapping": ({1: 1, 2: 2, 3: 3, 4: 4}, "(dict) for 4 samples"),
    "a generator": (lambda batch: (1.0 for _ in batch.prompts), "(generator) for 4 samples"),
    "a meta tensor": (torch.zeros(4, device="meta"), "reward 'bad' failed"),
    "a sparse tensor": (torch.eye(2).to_sparse(), "reward 'bad' failed"),
    "a list that raises": (Odd([1, 2, 3, 4]), "UnprintableError: (its __str__ raised RuntimeError)"),
    "an exception": (raises(ValueError("no model")), "ValueError: no model"),
    "an exception without text": (raises(UnprintableError()), "UnprintableError: (its __str__ raised RuntimeError)"),
    "an exception group": (raises(ExceptionGroup("two", [ValueError("first")])), "ValueError: first"),
    "sys.exit": (raises(SystemExit(0)), "SystemExit: 0"),
    "Ctrl-C of its own": (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
    "os._exit": (lambda batch: os._exit(0), "SystemExit: os._exit(0), which would have ended the run"),
    "no memory": (raises(MemoryError()), "MemoryError"),
    "recursion": (raises(RecursionError("too deep")), "RecursionError: too deep"),
    "writes pixels": (lambda batch: batch.media[0]["image"].data.fill(0), "read-only"),
}


def setting(change):
    def score(batch: RewardBatch) -> list[float]:
        change()
        return [1.0] * len(batch)

    return score


def inference_mode_for_ever() -> None:
    mode = torch.inference_mode()
    mode.__enter__()
    KEPT.append(mode)  # it ends when the object does


KEPT: list[object] = []


def unlocked(batch: RewardBatch) -> list[float]:
    batch.media[1]["image"].data.flags.writeable = True
    batch.media[1]["image"].data[0] = 255
    return [1.0] * len(batch)


def through_torch(batch: RewardBatch) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(batch.media[0]["image"].data).mul_(0)
    return [1.0] * len(batch)


async def async_dtype(batch: RewardBatch) -> list[float]:
    torch.set_default_dtype(torch.float64)
    await asyncio.sleep(0)
    return [1.0] * len(batch)


REFUSED = {
    "default dtype": (setting(lambda: torch.set_default_dtype(torch.float64)), "torch's default dtype"),
    "default dtype, async": (async_dtype, "torch's default dtype"),
    "grad mode": (setting(lambda: torch.set_grad_enabled(False)), "torch's grad mode"),
    "threads": (setting(lambda: torch.set_num_threads(torch.get_num_threads() + 1)), "torch's number of threads"),
    "matmul precision": (setting(lambda: torch.set_float32_matmul_precision("medium")), "float32 matmul precision"),
    "deterministic": (setting(lambda: torch.use_deterministic_algorithms(True)), "torch's deterministic algorithms"),
    "cudnn": (setting(lambda: setattr(torch.backends.cudnn, "benchmark", True)), "torch.backends.cudnn.benchmark"),
    "default device": (setting(lambda: torch.set_default_device("meta")), "torch's default device"),
    "anomaly detection": (setting(lambda: torch.autograd.set_detect_anomaly(True)), "torch's anomaly detection"),
    "inference mode": (setting(inference_mode_for_ever), "torch's inference mode"),
    "autocast": (setting(lambda: torch.autocast("cpu", torch.bfloat16).__enter__()), "torch's autocast"),
    "an alarm": (setting(lambda: signal.alarm(3600)), "the timer of signal.alarm"),
    "umask": (setting(lambda: os.umask(0o777)), "the umask of the process"),
    "working folder": (setting(lambda: os.chdir("/")), "the working folder"),
    "stdout": (setting(lambda: setattr(sys, "stdout", io.StringIO())), "sys.stdout"),
    "file of stdout": (setting(lambda: os.close(1)), "sys.stdout"),
    "seed of torch": (setting(lambda: torch.manual_seed(7)), "the seed of torch"),
    "seed of random": (setting(lambda: random.seed(7)), "the seed of random"),
    "seed of numpy": (setting(lambda: np.random.seed(7)), "the seed of numpy.random"),
    "unlocked pixels": (unlocked, "the data of a sample's image"),
    "pixels through torch": (through_torch, "the data of a sample's image"),
}


def two(answer) -> tuple[RewardSpec, RewardSpec]:
    return RewardSpec("bad", 0.0, 4, Answers(answer)), RewardSpec("good", 1.0, 4, Answers(neighbour))


@pytest.fixture
def unharmed(draw, runner_of):
    """The neighbour's scores where it is alone; afterwards all settings are as they were."""
    settings = (*PROCESS, *THREAD)
    before = [setting.read() for setting in settings]
    runner = runner_of(RewardSpec("good", 1.0, 4, Answers(neighbour)))
    runner.submit(draw(1))
    yield {s.sample.request.sample_id: s.value for s in runner.completed()}
    assert [setting.read() for setting in settings] == before


@pytest.mark.parametrize(("answer", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_taken_as_they_are(draw, runner_of, score_all, unharmed, answer, expected) -> None:
    runner = runner_of(*two(answer))
    scored = score_all(runner, draw(1))
    assert [s.components["bad"] for _, s in sorted(scored.items())] == expected
    assert {k: s.components["good"] for k, s in scored.items()} == unharmed
    assert runner.failures == []


@pytest.mark.parametrize(("entry", "reason"), MISSING_SAMPLES.values(), ids=MISSING_SAMPLES)
def test_an_entry_that_is_no_number_is_missing(draw, runner_of, score_all, unharmed, entry, reason) -> None:
    runner = runner_of(*two([1.0, entry, 0.0, 2.0]))
    scored = score_all(runner, draw(1))
    assert [s.components["bad"] for _, s in sorted(scored.items())] == [1.0, None, 0.0, 2.0]
    assert {k: s.components["good"] for k, s in scored.items()} == unharmed
    (failure,) = runner.failures
    assert failure.startswith("reward 'bad' returned ")
    assert reason in failure


@pytest.mark.parametrize(("answer", "reason"), MISSING_CALLS.values(), ids=MISSING_CALLS)
def test_a_call_without_result_leaves_its_samples_missing(draw, runner_of, score_all, unharmed, answer, reason) -> None:
    runner = runner_of(*two(answer))
    scored = score_all(runner, draw(1))
    assert [s.components["bad"] for s in scored.values()] == [None] * 4
    assert [s.value for s in scored.values()] == [None] * 4
    assert {k: s.components["good"] for k, s in scored.items()} == unharmed
    (failure,) = runner.failures
    assert reason in failure
    assert len(failure.splitlines()) <= 12


@pytest.mark.parametrize(("answer", "what"), REFUSED.values(), ids=REFUSED)
def test_a_change_of_what_others_use_is_refused_and_undone(draw, runner_of, unharmed, answer, what) -> None:
    output = sys.stdout
    runner = runner_of(*two(answer))
    runner.submit(draw(1))
    with pytest.raises(RewardError) as caught:
        list(runner.completed())
    assert re.match(
        f"(reward 'bad'|one of the rewards 'bad', 'good', .+,) changed {re.escape(what)}", caught.value.what
    )
    assert "process: true" in caught.value.hint
    assert sys.stdout is output
    if "image" in what:  # no other reward's number counts either
        with pytest.raises(RewardError, match="reward 'bad' changed"):
            list(runner.completed())
    rest = list(runner.completed())
    assert all(s.value is None and s.components["bad"] is None for s in rest)
    if "image" not in what:
        assert {s.sample.request.sample_id: s.components["good"] for s in rest} == unharmed


def test_metadata_belongs_to_one_call(draw, runner_of, score_all, unharmed) -> None:
    def greedy(batch: RewardBatch) -> list[float]:
        for row in batch.metadata:
            row.clear()  # type: ignore[attr-defined]
        batch.media[0].clear()
        batch.prompts.clear()
        return [0.0] * 4

    runner = runner_of(*two(greedy))
    for _ in range(2):
        assert {k: s.value for k, s in score_all(runner, draw(1)).items()} == unharmed


@pytest.mark.parametrize(
    "change",
    [
        lambda: warnings.simplefilter("error"),
        lambda: np.seterr(all="raise"),
        lambda: locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"),
    ],
    ids=["warnings", "numpy's errors", "locale"],
)
def test_what_libraries_set_when_they_are_imported_is_set_back_in_silence(
    draw, runner_of, score_all, unharmed, change
) -> None:
    runner = runner_of(*two(setting(change)))
    scored = score_all(runner, draw(1))
    assert [s.components["bad"] for s in scored.values()] == [1.0] * 4
    assert {k: s.components["good"] for k, s in scored.items()} == unharmed


def test_draws_from_global_generators_are_allowed(draw, runner_of, score_all, unharmed) -> None:
    def drawing(batch: RewardBatch) -> list[float]:
        torch.randn(10)
        return [random.random() + np.random.rand(1000)[0] for _ in batch.prompts]

    runner = runner_of(*two(drawing))
    assert {k: s.value for k, s in score_all(runner, draw(1)).items()} == unharmed


def test_a_sum_that_fp32_cannot_hold_is_missing(draw, runner_of, score_all) -> None:
    runner = runner_of(RewardSpec("large", 10.0, 4, Answers([1e38, 1.0, 2.0, 3.0])))
    assert [s.value for _, s in sorted(score_all(runner, draw(1)).items())] == [None, 10.0, 20.0, 30.0]
    assert "too large for fp32" in runner.failures[0]


async def forever(batch: RewardBatch) -> list[float]:
    await asyncio.sleep(3600)
    return []


async def blocked(batch: RewardBatch) -> list[float]:
    time.sleep(30)
    return []


@pytest.mark.parametrize("score", [lambda batch: time.sleep(30), forever, blocked], ids=["plain", "async", "blocked"])
def test_a_hung_reward_is_missing_after_its_time_and_closing_does_not_wait(draw, score) -> None:
    from omni_rl.rewards.runner import RewardRunner

    hung = RewardSpec("hung", 1.0, 4, Answers(score), timeout_s=0.3)
    runner = RewardRunner([hung, RewardSpec("good", 1.0, 4, Answers(neighbour))])
    started = time.monotonic()
    runner.submit(draw(1))
    scored = list(runner.completed())
    assert [s.components["hung"] for s in scored] == [None] * 4
    assert all(s.components["good"] is not None for s in scored)
    assert "reward 'hung' did not answer within 0.3 s for 4 samples" in runner.failures[0]
    runner.close()
    assert time.monotonic() - started < 12
