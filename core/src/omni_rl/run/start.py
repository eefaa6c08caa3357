"""The three ways to start a run: ``train``, ``resume`` and ``check``.

Each resolves the configuration and passes the run's specification to the launcher, together with the name of a function
``*_here`` of this module. The launcher calls that function, in this or in another process.
"""

from __future__ import annotations

import contextlib
import shlex
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
from omni_rl.contracts.schema import Config
from omni_rl.contracts.spec import RunSpec
from omni_rl.contracts.types import Sample
from omni_rl.contracts.verdicts import Row, Verdicts, raise_on_failure
from omni_rl.errors import PluginError, RunError, UserError
from omni_rl.gate import run_gate
from omni_rl.model.loading import pick_device
from omni_rl.parallel.group import joined, rank, world_size
from omni_rl.parallel.layout import arranged
from omni_rl.reporting import artifacts
from omni_rl.reporting.progress import Progress
from omni_rl.reporting.provenance import FILE, provenance
from omni_rl.reporting.recorder import Onlooker, Recorder
from omni_rl.reporting.steady_output import steady_output
from omni_rl.reporting.validated import Validated
from omni_rl.run.assembly import Assembly, assemble
from omni_rl.run.continuing import Point, change_training, differences, find, last_validation_differs, new_id, shown
from omni_rl.run.data_check import check_data_of
from omni_rl.run.equal_ranks import equality_row, refuse_other_run
from omni_rl.run.failure import failure, way_on
from omni_rl.run.loop import Finished, TrainingLoop
from omni_rl.run.spec import remember, resolved_of
from omni_rl.run.state import Origin, restore
from omni_rl.run.subject import subject_of
from omni_rl.run.together import on_rank_0, together
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
        interrupted: Ctrl-C or another signal ended it early, after a checkpoint.
        metrics: one row per iteration, as in ``metrics.jsonl``.
        gate: the gate's rows; empty if the gate was off.
        last_validation: the latest validation; None if the run was in another process.
        model: the trained model in memory; None if the run was in another process.
        signal: the number of the signal that ended it early; None if there was none.
    """

    directory: RunDirectory
    state: State
    interrupted: bool
    metrics: list[dict[str, float]] = field(repr=False)
    gate: list[Row] = field(repr=False)
    last_validation: Validated | None = field(default=None, repr=False)
    model: LoadedModel | None = field(default=None, repr=False)
    signal: int | None = None

    @property
    def samples(self) -> list[Sample]:
        """The samples of the latest validation; empty if there is none."""
        return self.last_validation.samples if self.last_validation else []

    def to_json(self) -> dict[str, Any]:
        """JSON data from which another process reads the run from its directory."""
        state = {"iteration": self.state.iteration, "policy_version": self.state.policy_version}
        return {"directory": str(self.directory.path), "state": state, "signal": self.signal}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Run:
        """Read the run from its directory; the inverse of :meth:`to_json`, without validation and model."""
        directory = RunDirectory.open(data["directory"])
        return _run(directory, Finished(State(**data["state"]), data["signal"]))


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
    """:func:`train` in this process, which may be one of several ranks."""
    resolved = resolved_of(spec)
    with steady_output(), _ranks(resolved.config), _assembled(resolved) as parts:
        progress = Progress(resolved.config.train.iterations, quiet=not show or rank() > 0)
        check_data_of(parts, progress.note)
        verdicts = _pass_gate(parts, progress, State())
        directory = _created(run_dir)
        with _locked(directory):
            origin = Origin(*on_rank_0(lambda: _origin(parts)))
            with _noting("no iteration was trained; to start the run, give the same command again"):
                on_rank_0(lambda: _write_beginning(directory, resolved, origin, verdicts))
            progress.note(f"run directory {directory.path}, seed {resolved.config.seed}")
            recorder = _recorder(parts, directory, progress)
            return _finish(parts, recorder, TrainingLoop(parts, recorder, origin, State(), None), new=True)


def _created(run_dir: str) -> RunDirectory:
    """The folder of a new run, which rank 0 creates for all."""
    created: list[RunDirectory] = []

    def create() -> str:
        created.append(RunDirectory.create(run_dir))
        return run_dir

    path = on_rank_0(create)
    return created[0] if created else RunDirectory(path)


@contextlib.contextmanager
def _locked(directory: RunDirectory) -> Iterator[None]:
    """The lock of the run directory, which rank 0 holds for all."""
    with contextlib.ExitStack() as held:
        on_rank_0(lambda: held.enter_context(directory.locked()))
        yield


def _origin(parts: Assembly) -> list[Any]:
    """A new run's id and provenance."""
    return [new_id(), provenance(parts.resolved, parts.fingerprint, parts.model.device, parts.media())]


def _write_beginning(directory: RunDirectory, resolved: Resolved, origin: Origin, verdicts: Sequence[Row]) -> None:
    """Write what describes a new run; if it cannot be written, the folder is as before."""
    try:
        directory.write_config(dump(resolved))
        artifacts.write_gate(directory, verdicts)
        directory.write_json(FILE, {"run": origin.run, **origin.provenance})
    except BaseException:
        directory.discard()
        raise


def resume(run_dir: str | Path, overrides: Sequence[str] = (), show: bool = False) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is the same as without the interruption. A run
    without a checkpoint starts again from its beginning.

    ``overrides`` are saved in the run directory, so they also apply to the next resume. They may raise
    ``train.iterations`` of a finished run. Overrides that change samples or updates are allowed: the gate then checks
    the run again.

    Raises:
        CheckpointError: there is no run, or its newest checkpoint is damaged, belongs to another run or model, or its
            weights would mean something else with this configuration.
        UserError: another process trains in the folder.
    """
    directory = RunDirectory.open(run_dir)
    resolved = resolve(directory.config_file, overrides)
    return _launch(resolved, resume_here, Run, run_dir=str(directory.path), show=show)


def resume_here(spec: RunSpec, run_dir: str, show: bool) -> Run:
    """:func:`resume` in this process."""
    resolved, directory = resolved_of(spec), RunDirectory.open(run_dir)
    with steady_output(), _ranks(resolved.config), _locked(directory):
        on_rank_0(directory.check)
        on_rank_0(directory.sweep)
        point = find(directory)
        differences(point, directory, resolved, {})  # refuses before the weights are loaded
        artifacts.check_report(directory)
        with _assembled(resolved) as parts:
            return _continue(
                parts, directory, point, Progress(resolved.config.train.iterations, quiet=not show or rank() > 0)
            )


def _continue(parts: Assembly, directory: RunDirectory, point: Point, progress: Progress) -> Run:
    now = on_rank_0(lambda: _origin(parts)[1])
    origin = Origin(point.run, now, point.row)
    changed = differences(point, directory, parts.resolved, origin.provenance)
    if point.iteration > 0:
        artifacts.check_report(directory, len(parts.validation_rows) * parts.config.validation.samples_per_prompt)
    state = State() if point.path is None else restore(parts, point.path)
    if changed:
        progress.note(shown(changed))
    check_data_of(parts, progress.note)
    checked = _pass_gate(parts, progress, state) if point.path is None or change_training(changed) else None
    with _noting(f"nothing is lost; continue with: omni-rl resume {shlex.quote(str(directory.path))}"):
        on_rank_0(lambda: _write_continuation(parts, directory, point, origin, checked))
    progress.note(_where(point, directory))
    recorder = _recorder(parts, directory, progress)
    saved = point.iteration if point.path else None
    return _finish(parts, recorder, TrainingLoop(parts, recorder, origin, state, saved), new=False)


def _write_continuation(
    parts: Assembly, directory: RunDirectory, point: Point, origin: Origin, checked: Sequence[Row] | None
) -> None:
    """Make the files those of the iteration from which the run continues."""
    if checked is not None:
        artifacts.write_gate(directory, checked)
    directory.truncate_metrics(point.iteration, point.row or None)
    if last_validation_differs(point, directory):
        artifacts.drop_validation(directory, point.iteration)
    directory.write_config(dump(parts.resolved))
    if not (directory.path / FILE).exists():
        directory.write_json(FILE, {"run": origin.run, **origin.provenance})


@contextlib.contextmanager
def _noting(sentence: str) -> Iterator[None]:
    """Add a sentence to the error if the run fails here."""
    try:
        yield
    except RunError as error:
        error.add_note(sentence)
        raise


def _where(point: Point, directory: RunDirectory) -> str:
    if point.path is None:
        return "the run has no checkpoint: starting it again from its beginning"
    text = f"continuing after iteration {point.iteration}"
    if artifacts.has_before(directory):
        return text
    missing = "the samples of the first validation are missing"
    return f"{text}; {missing}: the report compares with iteration {point.iteration}"


def check(config: Source, overrides: Sequence[str] = ()) -> list[Row]:
    """Run only the gate: build the run, draw a few samples and check them. Writes nothing, and returns the rows."""
    return _launch(resolve(config, overrides), check_here, Verdicts)


def check_here(spec: RunSpec) -> Verdicts:
    """:func:`check` in this process, which may be one of several ranks."""
    resolved = resolved_of(spec)
    with _ranks(resolved.config), _assembled(resolved) as parts:
        check_data_of(parts)
        return Verdicts(_gate(parts, State()))


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
    kind = Recorder if rank() == 0 else Onlooker
    return kind(directory, progress, parts.hooks, parts.config, parts.model.architecture)


def _pass_gate(parts: Assembly, progress: Progress, state: State) -> list[Row]:
    if parts.config.gate == "off":
        return []
    with engine_with("trained", parts.backend, parts.engine, state.policy_version, parts.traits.samples_with):
        rows = _gate(parts, state)
    progress.gate(rows)
    if parts.config.gate == "on":
        raise_on_failure(rows)
    return rows


def _gate(parts: Assembly, state: State) -> list[Row]:
    rows = run_gate(subject_of(parts, state))
    return rows if world_size() == 1 else [*rows, equality_row(parts)]


def _finish(parts: Assembly, recorder: Recorder, loop: TrainingLoop, new: bool) -> Run:
    """Run the loop, notify the observers of its start and end, and write the report.

    ``new``: nothing is worth keeping if a user error ends the run before its first iteration, so that the mended run
    may have the same directory.
    """
    error: BaseException | None = None
    finished = Finished(loop.state)
    try:
        together(lambda: recorder.start(loop.state))
        with recorder.progress:
            finished = loop.run()
        if recorder.last_validation is not None:  # None if a signal arrived before the first validation
            report = _report(parts, recorder.last_validation, finished)
            on_rank_0(lambda: artifacts.write_report(recorder.directory, report))
    except BaseException as raised:
        error = failure(raised, loop, recorder)
        unused = new and isinstance(error, UserError) and loop.state.iteration == 0 and rank() == 0
        if not (unused and recorder.directory.discard()):
            error.add_note(way_on(loop, recorder.directory))
        raise error from (None if error is raised else raised)
    finally:
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            recorder.end(loop.state, error)
    return _run(recorder.directory, finished, recorder.last_validation, parts.model)


def _report(parts: Assembly, after: Validated, finished: Finished) -> artifacts.Report:
    """A run that a signal ended does not sample again without guidance: it has to leave."""
    guided, changes = artifacts.guidance_off(parts.config.rollout.call)
    title = f"{parts.model.architecture} with {parts.config.algorithm.name}"
    again = guided and finished.signal is None
    return artifacts.Report(title, after, validate(parts, finished.state, changes) if again else None)


def _run(
    directory: RunDirectory,
    finished: Finished,
    last_validation: Validated | None = None,
    model: LoadedModel | None = None,
) -> Run:
    metrics, gate = directory.metrics(), artifacts.read_gate(directory)
    stopped = finished.signal
    return Run(directory, finished.state, stopped is not None, metrics, gate, last_validation, model, stopped)


@contextlib.contextmanager
def _ranks(config: Config) -> Iterator[None]:
    """The process group of the run, whose ranks share samples as configured."""
    shared = config.train.sequence_parallel
    with joined(config.launcher.timeout_s), arranged(shared.ulysses, shared.ring, pick_device(config.device).type):
        yield


@contextlib.contextmanager
def _assembled(resolved: Resolved) -> Iterator[Assembly]:
    """The run's parts, closed at the end. If the run raises, errors of closing are ignored."""
    threads = torch.get_num_threads()
    refuse_other_run(resolved)
    parts = together(lambda: assemble(resolved))
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
