"""A run: everything built from one configuration, and the three ways to start it: ``train``, ``resume``, ``check``."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from omni_rl.config.explain import dump
from omni_rl.config.resolve import Resolved, resolve
from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.types import Sample
from omni_rl.contracts.verdicts import Row, raise_on_failure
from omni_rl.errors import CheckpointError, UserError
from omni_rl.gate.gate import run_gate
from omni_rl.reporting import artifacts
from omni_rl.reporting.progress import Progress
from omni_rl.reporting.validated import Validated
from omni_rl.run.assembly import Parts, build_parts
from omni_rl.run.loop import run_loop
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory, default_path

T = TypeVar("T")
Source = str | Path | Mapping[str, Any]


class Run(Parts):
    """A run in progress or finished.

    Attributes:
        directory: where it writes; None while it is only checked.
        iteration: completed iterations. policy_version: completed weight syncs.
        metrics: one row per iteration, as in ``metrics.jsonl``.
        validations: every validation of this process, the one before training first.
        gate: the gate's rows, empty when it was off.
        interrupted: Ctrl-C ended it early, after saving.
    """

    def __init__(self, resolved: Resolved, directory: RunDirectory | None, progress: Progress | None = None) -> None:
        super().__init__(**vars(build_parts(resolved)))
        self.directory = directory
        self.progress = progress or Progress(resolved.config.train.iterations, quiet=True)
        self.iteration = 0
        self.policy_version = 0
        self.metrics: list[dict[str, float]] = []
        self.validations: list[Validated] = []
        self.gate: list[Row] = []
        self.interrupted = False

    @property
    def samples(self) -> list[Sample]:
        """The latest validation's samples."""
        return self.validations[-1].samples if self.validations else []

    def sampling_weights(self) -> contextlib.AbstractContextManager[None]:
        """The weights that rollouts are drawn with: the trained ones, or those that the algorithm ``samples_with``."""
        name = getattr(self.algorithm, "samples_with", None)
        return contextlib.nullcontext() if name is None else self.backend.policy.weights(name)

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The weights that validation looks at, also in the engine: the average if there is one, else the trained."""
        averaged = self.config.train.ema is not None
        if not averaged and getattr(self.algorithm, "samples_with", None) is None:
            yield
            return
        with self.backend.policy.weights("ema") if averaged else contextlib.nullcontext():
            self.engine.sync(self.policy_version)
            yield
        self.sync_engine()

    def sync_engine(self) -> SyncReport:
        """Give the engine the weights to sample with."""
        with self.sampling_weights():
            return self.engine.sync(self.policy_version)

    def record_validation(self, validated: Validated) -> None:
        """Keep, write and announce a validation."""
        self.validations.append(validated)
        assert self.directory is not None
        artifacts.write_validation(self.directory, validated)
        self.progress.validation(validated.iteration, validated.mean, validated.stderr)
        self.hooks.on_validation(
            run=self, iteration=validated.iteration, samples=validated.samples, rewards=validated.rewards
        )

    def record_iteration(self, row: dict[str, float]) -> None:
        """Keep, write and announce an iteration's metrics."""
        self.metrics.append(row)
        assert self.directory is not None
        self.directory.append_metrics(row)
        self.progress.iteration(row)
        self.hooks.on_iteration_end(run=self, row=row)

    def save(self) -> None:
        """Write a checkpoint of everything needed to go on exactly."""
        assert self.directory is not None
        tensors, extra = self.backend.state()
        state = {
            "iteration": self.iteration,
            "policy_version": self.policy_version,
            "architecture": self.model.architecture,
            "model_fingerprint": self.fingerprint,
            "backend": extra,
            "trackers": [tracker.state() for tracker in self.trackers],
        }
        path = checkpoint.save(self.directory, tensors, state, keep=self.config.train.keep_checkpoints)
        self.hooks.on_checkpoint(run=self, path=str(path))

    def restore(self, truncate: bool = True) -> None:
        """Load the directory's newest checkpoint; with ``truncate``, metrics written after it are forgotten."""
        assert self.directory is not None
        path = checkpoint.latest(self.directory)
        if path is None:
            raise CheckpointError(f"{self.directory.path} holds no checkpoint", "start again with omni-rl train")
        tensors, state = checkpoint.load(path, self.model.architecture, self.fingerprint)
        self.backend.load_state(tensors, state["backend"])
        self.iteration, self.policy_version = state["iteration"], state["policy_version"]
        for tracker, kept in zip(self.trackers, state["trackers"], strict=False):
            tracker.restore(kept)
        if truncate:
            self.directory.truncate_metrics(self.iteration)
        self.metrics = self.directory.metrics()
        self.sync_engine()

    def close(self) -> None:
        """Release engine, rewards and trackers. Idempotent."""
        self.engine.close()
        self.rewards.close()
        self.validation_rewards.close()
        for tracker in self.trackers:
            tracker.close()


def train(
    config: Source,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    show: Callable[[int], Progress] | None = None,
) -> Run:
    """Train from a configuration file or mapping; returns the finished run.

    Args:
        config: a YAML file, or nested data in its place.
        overrides: ``key.sub=value``.
        run_dir: must be new or empty; default ``runs/<name>-<time>``.
        show: what makes a display (``omni_rl.reporting.progress.Progress``); None shows nothing.

    Raises:
        UserError: something in the configuration, the plugins, the data or the rewards has to be mended first.
        GateError: the gate refused the run. RunError: the run failed. Both are RuntimeErrors.
    """
    resolved = resolve(config, overrides)
    stem = Path(config).stem if isinstance(config, (str, Path)) else "run"
    directory = RunDirectory(run_dir or default_path(stem))
    directory.require_free()  # before any work is done
    display = show(resolved.config.train.iterations) if show else None
    return _launched(resolved, lambda: _train(resolved, directory, display))


def _train(resolved: Resolved, directory: RunDirectory, display: Progress | None) -> Run:
    with _open(Run(resolved, directory, display)) as run:
        if resolved.config.gate != "off":
            _pass_gate(run)
        RunDirectory.create(directory.path)
        directory.write_config(dump(resolved))
        artifacts.write_gate(directory, run.gate)
        artifacts.write_provenance(run)
        run.progress.note(f"run directory {directory.path}, seed {run.config.seed}")
        try:
            _finish(run)
        except UserError:
            if run.iteration == 0:  # nothing to go on from, and the mended run may have the same directory
                shutil.rmtree(directory.path)
            raise
    return run


def resume(run_dir: str | Path, overrides: Sequence[str] = (), show: Callable[[int], Progress] | None = None) -> Run:
    """Go on with an interrupted run from its newest checkpoint; the result equals an uninterrupted run's.

    ``overrides`` stay in force for the next resume. They may raise ``train.iterations`` of a finished run; changing
    anything that shapes samples or updates makes the continuation a different run, and is the caller's decision.

    Raises:
        CheckpointError: no run, no checkpoint, or one that is damaged or belongs to another model.
    """
    directory = RunDirectory.open(run_dir)
    resolved = resolve(directory.config_file, overrides)
    display = show(resolved.config.train.iterations) if show else None
    return _launched(resolved, lambda: _resume(resolved, directory, display))


def _resume(resolved: Resolved, directory: RunDirectory, display: Progress | None) -> Run:
    with _open(Run(resolved, directory, display)) as run:
        run.restore()
        directory.write_config(dump(resolved))  # overrides stay in force for the next resume
        run.progress.note(f"going on after iteration {run.iteration}")
        _finish(run)
    return run


def check(config: Source, overrides: Sequence[str] = ()) -> list[Row]:
    """The gate alone: build the run, draw a few samples, judge them; writes nothing."""
    resolved = resolve(config, overrides)

    def judged() -> list[Row]:
        with _open(Run(resolved, None)) as run:
            return run_gate(run)

    return _launched(resolved, judged)


def _launched(resolved: Resolved, function: Callable[[], T]) -> T:
    launcher: Callable[[Callable[[], T]], T] = resolved.launcher.instance()
    return launcher(function)


def _pass_gate(run: Run) -> None:
    run.gate = run_gate(run)
    run.progress.gate(run.gate)
    if run.config.gate == "on":
        raise_on_failure(run.gate)


def _finish(run: Run) -> None:
    """The loop, with the run's observers around it and the report after it."""
    error: BaseException | None = None
    run.hooks.on_run_start(run=run)
    try:
        with run.progress:
            run_loop(run)
        if run.validations:  # absent when a resumed run is interrupted before its first
            artifacts.write_report(run)
    except BaseException as raised:
        error = raised
        raise
    finally:
        run.hooks.on_run_end(run=run, error=error)


@contextlib.contextmanager
def _open(run: Run) -> Iterator[Run]:
    threads = torch.get_num_threads()
    try:
        yield run
    finally:
        run.close()
        torch.set_num_threads(threads)


__all__ = ["Run", "check", "resume", "train"]
