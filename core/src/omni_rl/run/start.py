"""The three ways to start a run: ``train``, ``resume`` and ``check``.

Each resolves the configuration and passes the run's specification to the launcher, together with the name of a function
``*_here`` of this module. The launcher calls that function, in this or in another process.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from omni_rl.config.explain import dump
from omni_rl.config.resolve import Resolved, resolve
from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Launcher
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.spec import RunSpec
from omni_rl.contracts.types import Sample
from omni_rl.contracts.verdicts import Row, Verdicts, raise_on_failure
from omni_rl.errors import PluginError, UserError
from omni_rl.gate import run_gate
from omni_rl.reporting import artifacts
from omni_rl.reporting.progress import Progress
from omni_rl.reporting.provenance import FILE, provenance
from omni_rl.reporting.recorder import Recorder
from omni_rl.reporting.validated import Validated
from omni_rl.run.assembly import Assembly, assemble
from omni_rl.run.loop import Finished, run_loop
from omni_rl.run.spec import remember, resolved_of
from omni_rl.run.state import restore
from omni_rl.run.subject import subject_of
from omni_rl.run.validation import validate
from omni_rl.run.weight_sync import engine_with
from omni_rl.storage.run_folder import RunDirectory, default_path

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: the run directory.
        state: completed iterations and weight syncs.
        interrupted: Ctrl-C ended it early, after a checkpoint.
        metrics: one row per iteration, as in ``metrics.jsonl``.
        gate: the gate's rows; empty if the gate was off.
        last_validation: the latest validation; None if the run was in another process.
        model: the trained model in memory; None if the run was in another process.
    """

    directory: RunDirectory
    state: State
    interrupted: bool
    metrics: list[dict[str, float]] = field(repr=False)
    gate: list[Row] = field(repr=False)
    last_validation: Validated | None = field(default=None, repr=False)
    model: LoadedModel | None = field(default=None, repr=False)

    @property
    def samples(self) -> list[Sample]:
        """The samples of the latest validation; empty if there is none."""
        return self.last_validation.samples if self.last_validation else []

    def to_json(self) -> dict[str, Any]:
        """JSON data from which another process reads the run from its directory."""
        state = {"iteration": self.state.iteration, "policy_version": self.state.policy_version}
        return {"directory": str(self.directory.path), "state": state, "interrupted": self.interrupted}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Run:
        """Read the run from its directory; the inverse of :meth:`to_json`, without validation and model."""
        directory = RunDirectory.open(data["directory"])
        return _run(directory, Finished(State(**data["state"]), data["interrupted"]))


Answer = TypeVar("Answer", Run, Verdicts)


def train(config: Source, overrides: Sequence[str] = (), run_dir: str | Path | None = None, show: bool = False) -> Run:
    """Train from a configuration file or mapping; returns the finished run.

    Args:
        config: a YAML file, or the same data as nested mappings.
        overrides: texts ``section.key=value``, which replace values of the configuration.
        run_dir: a new or empty folder; default ``runs/<name>-<time>``.
        show: print progress.

    Raises:
        UserError: an error in the configuration, the plugins, the data or the rewards.
        GateError: a check of the gate failed. RunError: the run failed. Both are RuntimeErrors.
    """
    resolved = resolve(config, overrides)
    stem = Path(config).stem if isinstance(config, (str, Path)) else "run"
    directory = RunDirectory(run_dir or default_path(stem))
    directory.require_free()  # before any work is done
    return _launch(resolved, train_here, Run, run_dir=str(directory.path), show=show)


def train_here(spec: RunSpec, run_dir: str, show: bool) -> Run:
    """:func:`train` in this process."""
    resolved, directory = resolved_of(spec), RunDirectory(run_dir)
    with _assembled(resolved) as parts:
        progress = Progress(resolved.config.train.iterations, quiet=not show)
        verdicts = _pass_gate(parts, progress, State())
        RunDirectory.create(directory.path)
        directory.write_config(dump(resolved))
        artifacts.write_gate(directory, verdicts)
        directory.write_json(FILE, provenance(resolved, parts.fingerprint, parts.model.device))
        progress.note(f"run directory {directory.path}, seed {resolved.config.seed}")
        return _finish(parts, _recorder(parts, directory, progress), State())


def resume(run_dir: str | Path, overrides: Sequence[str] = (), show: bool = False) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is the same as without the interruption.

    ``overrides`` are saved in the run directory, so they also apply to the next resume. They may raise
    ``train.iterations`` of a finished run. Overrides that change samples or updates are allowed: the gate then checks
    the run again.

    Raises:
        CheckpointError: there is no run or no checkpoint, or the checkpoint is damaged or belongs to another model.
    """
    directory = RunDirectory.open(run_dir)
    resolved = resolve(directory.config_file, overrides)
    return _launch(resolved, resume_here, Run, run_dir=str(directory.path), show=show)


def resume_here(spec: RunSpec, run_dir: str, show: bool) -> Run:
    """:func:`resume` in this process."""
    resolved, directory = resolved_of(spec), RunDirectory.open(run_dir)
    changed = _changes_samples(resolved, resolve(directory.config_file))
    with _assembled(resolved) as parts:
        progress = Progress(resolved.config.train.iterations, quiet=not show)
        state = restore(parts, directory)
        if changed:
            artifacts.write_gate(directory, _pass_gate(parts, progress, state))
        directory.write_config(dump(resolved))
        progress.note(f"continuing after iteration {state.iteration}")
        return _finish(parts, _recorder(parts, directory, progress), state)


def check(config: Source, overrides: Sequence[str] = ()) -> list[Row]:
    """Run only the gate: build the run, draw a few samples and check them. Writes nothing, and returns the rows."""
    return _launch(resolve(config, overrides), check_here, Verdicts)


def check_here(spec: RunSpec) -> Verdicts:
    """:func:`check` in this process."""
    with _assembled(resolved_of(spec)) as parts:
        return Verdicts(run_gate(subject_of(parts, State())))


def _launch(resolved: Resolved, entry: Any, kind: type[Answer], **arguments: Any) -> Answer:
    """Call ``entry`` with the run's launcher; its answer is of this ``kind``, or JSON data of it."""
    launcher: Launcher = resolved.launcher.instance()
    if resolved.launcher.key != "local" and "run_dir" in arguments:
        arguments["run_dir"] = str(Path(arguments["run_dir"]).absolute())  # its process may work in another folder
    answer = launcher(remember(resolved), f"{entry.__module__}:{entry.__name__}", arguments)
    if isinstance(answer, kind):
        return answer
    if type(answer) not in (dict, list):
        raise PluginError(f"the launcher must return the answer of the function that it calls, not {answer!r:.200}")
    return kind.from_json(answer)


def _recorder(parts: Assembly, directory: RunDirectory, progress: Progress) -> Recorder:
    return Recorder(directory, progress, parts.hooks, parts.config, parts.model.architecture)


def _pass_gate(parts: Assembly, progress: Progress, state: State) -> list[Row]:
    if parts.config.gate == "off":
        return []
    with engine_with("trained", parts.backend, parts.engine, state.policy_version, parts.traits.samples_with):
        rows = run_gate(subject_of(parts, state))
    progress.gate(rows)
    if parts.config.gate == "on":
        raise_on_failure(rows)
    return rows


def _changes_samples(new: Resolved, old: Resolved) -> bool:
    """Whether the configurations differ in more than length, validation, trackers, gate, launcher and checkpoints."""
    before, after = (each.config.model_dump(mode="json") for each in (old, new))
    for data in (before, after):
        for section in ("validation", "tracker", "gate", "launcher"):
            data.pop(section)
        for key in ("iterations", "checkpoint_every", "keep_checkpoints"):
            data["train"].pop(key)
    return before != after


def _finish(parts: Assembly, recorder: Recorder, state: State) -> Run:
    """Run the loop, notify the observers of its start and end, and write the report."""
    error: BaseException | None = None
    finished = Finished(state, False)
    recorder.start(state)
    try:
        with recorder.progress:
            finished = run_loop(parts, recorder, state)
        if recorder.last_validation is not None:  # None if a resumed run is interrupted before its first validation
            artifacts.write_report(recorder.directory, _report(parts, recorder.last_validation, finished.state))
    except BaseException as raised:
        error = raised
        if isinstance(raised, UserError) and not recorder.directory.metrics():
            shutil.rmtree(recorder.directory.path)  # nothing to go on from; the mended run may have the same directory
        raise
    finally:
        recorder.end(finished.state, error)
    return _run(recorder.directory, finished, recorder.last_validation, parts.model)


def _report(parts: Assembly, after: Validated, state: State) -> artifacts.Report:
    guided, changes = artifacts.guidance_off(parts.config.rollout.call)
    title = f"{parts.model.architecture} with {parts.config.algorithm.name}"
    return artifacts.Report(title, after, validate(parts, state, changes) if guided else None)


def _run(
    directory: RunDirectory,
    finished: Finished,
    last_validation: Validated | None = None,
    model: LoadedModel | None = None,
) -> Run:
    metrics, gate = directory.metrics(), artifacts.read_gate(directory)
    return Run(directory, finished.state, finished.interrupted, metrics, gate, last_validation, model)


@contextlib.contextmanager
def _assembled(resolved: Resolved) -> Iterator[Assembly]:
    """The run's parts, closed at the end. If the run raises, errors of closing are ignored."""
    threads = torch.get_num_threads()
    parts = assemble(resolved)
    try:
        yield parts
    except BaseException:
        with contextlib.suppress(Exception):
            parts.built.close()
        raise
    else:
        parts.built.close()
    finally:
        torch.set_num_threads(threads)


__all__ = ["Run", "check", "check_here", "resume", "resume_here", "train", "train_here"]
