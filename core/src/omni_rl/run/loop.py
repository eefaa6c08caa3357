"""The training loop: experience -> update -> sync, with validations and checkpoints in between.

The parts are in these modules: sampling and scoring in ``run/experience.py`` (the denoising loop in
``sampling/denoise.py``), updates in ``training/backend.py``, losses in the algorithm's plugin, the weight sync in
``run/weight_sync.py``, validation in ``run/validation.py``, checkpoints in ``run/state.py``, files and progress output
in ``reporting/recorder.py``, signals in ``run/signals.py``.

Before an update begins, the memory holds the last complete iteration. Whatever goes wrong there, the loop saves this
iteration and leaves. During an update, the weights belong to no iteration: nothing is saved, and the newest checkpoint
counts.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Experience
from omni_rl.parallel.agreement import any_rank
from omni_rl.parallel.layout import data_ranks
from omni_rl.reporting import artifacts
from omni_rl.reporting.recorder import Recorder
from omni_rl.run import freed_memory
from omni_rl.run.assembly import Assembly
from omni_rl.run.dealing import own_groups
from omni_rl.run.experience import check_staleness
from omni_rl.run.replay_alarm import ReplayAlarm
from omni_rl.run.signals import Stopped, StopSignals
from omni_rl.run.state import Origin, save
from omni_rl.run.together import on_rank_0, together
from omni_rl.run.validation import validate
from omni_rl.run.weight_sync import sync_weights
from omni_rl.storage.run_folder import RunDirectory


class Finished(NamedTuple):
    """The end of the loop; ``signal``: the signal that ended it early, after a checkpoint; None at the regular end."""

    state: State
    signal: int | None = None


class TrainingLoop:
    """All remaining iterations of a run.

    Attributes:
        state: the last complete iteration.
        saved: the iteration of the newest checkpoint; None if there is none.
        updating: whether the weights belong to no complete iteration, because an update has begun.
        save_error: why the last complete iteration could not be saved; None if it was.
    """

    def __init__(self, parts: Assembly, recorder: Recorder, origin: Origin, state: State, saved: int | None) -> None:
        self.state, self.saved = state, saved
        self.updating = False
        self.save_error: BaseException | None = None
        self._parts, self._recorder, self._origin = parts, recorder, origin
        self._row: dict[str, float] = {}  # of the last complete iteration; empty if it is in the metrics already
        self._signals = StopSignals()
        gate = artifacts.read_gate(recorder.directory)
        self._alarm = ReplayAlarm(gate, parts.model.dtype, recorder.progress.note)
        self._saved_at = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether all iterations are."""
        return self.state.iteration >= self._parts.config.train.iterations

    def run(self) -> Finished:
        """Run, and save a checkpoint at the end, also if an error or a signal is the end.

        Raises:
            BaseException: the error that ended the run; see the attributes for what is saved.
        """
        with freed_memory.old_objects_kept(), self._signals:
            try:
                self._first_validation()
                while not self.complete:
                    self._iteration()
            except BaseException as error:
                return self._leave(error)
        return Finished(self.state)

    def _first_validation(self) -> None:
        """The validation before training, or one that a resumed run did not complete. A finished run is only validated
        again, because its process may have ended before it wrote the report.
        """
        iteration, directory = self.state.iteration, self._recorder.directory
        known, before = on_rank_0(lambda: [_is_known(directory, iteration), artifacts.has_before(directory)])
        missing = _is_due(iteration, self._parts.config.validation.every) and not known
        if iteration == 0 or self.complete or missing or not before:
            figures = self._validate()
            if iteration > 0 and missing:
                on_rank_0(lambda: directory.amend_metrics(iteration, figures))

    def _validate(self) -> dict[str, float]:
        with self._signals.stop_at_once():
            validated = validate(self._parts, self.state)
        self._row |= validated.row() if self._row else {}
        together(lambda: self._recorder.validation(self.state, validated))
        return validated.row()

    def _iteration(self) -> None:
        with self._signals.stop_at_once():
            drawn = draw(self._parts, self.state)
        together(self._signals.stop_if_arrived)
        for sentence in drawn.experience.notes:
            self._recorder.progress.note(sentence)
        self.updating = True
        self.state, self._row = learn(self._parts, self.state, drawn)
        self.updating = False
        self._alarm.check(self._row, drawn.current)
        train = self._parts.config.train
        last = self.complete
        if _is_due(self.state.iteration, self._parts.config.validation.every) or last:
            self._validate()
        freed_memory.give_back()  # before trackers look at the memory
        self._record()
        late = on_rank_0(lambda: 0 < train.checkpoint_every_s <= time.monotonic() - self._saved_at)
        if _is_due(self.state.iteration, train.checkpoint_every) or last or late:
            self._save()

    def _record(self) -> None:
        row, self._row = self._row, {}
        self._origin.row = row
        together(lambda: self._recorder.iteration(self.state, row))

    def _save(self) -> None:
        path = save(self._parts, self._recorder.directory, self.state, self._origin, self._recorder.progress.note)
        self.saved, self._saved_at = self.state.iteration, time.monotonic()
        together(lambda: self._recorder.checkpoint(self.state, path))

    def _leave(self, error: BaseException) -> Finished:
        """Save the last complete iteration, if the memory holds it, and leave with the error."""
        at_once = isinstance(error, KeyboardInterrupt) and self._signals.arrived is not None  # the second Ctrl-C
        if at_once:
            raise error
        if not self.updating and self.saved != self.state.iteration > 0:
            try:
                self._keep()
            except Exception as second:
                self.save_error = second if self.saved != self.state.iteration else None
        if self.updating or self.save_error is not None:
            raise error
        if isinstance(error, Stopped):
            return Finished(self.state, error.number)
        if isinstance(error, KeyboardInterrupt):
            return Finished(self.state, signal.SIGINT)
        raise error

    def _keep(self) -> None:
        try:
            if self._row:
                self._record()
        finally:  # the checkpoint has the row too
            self._save()


class Drawn(NamedTuple):
    """The training data of an iteration.

    Attributes:
        current: whether all samples were drawn with the weights that the update begins with.
        started, ready: the times (``time.perf_counter``) at which it began and was complete.
    """

    experience: Experience
    current: bool
    started: float
    ready: float


def draw(parts: Assembly, state: State) -> Drawn:
    """Draw and score the samples of an iteration."""
    started = time.perf_counter()
    experience = parts.source.next(state)
    ranks = data_ranks()
    if ranks.size > 1 and not experience.dealt:
        experience = replace(experience, batch=own_groups(experience.batch, ranks.rank, ranks.size), dealt=True)
    together(lambda: check_staleness(experience, parts.source, state))
    current = not any_rank(bool((experience.batch["policy_version"] != state.policy_version).any()))
    return Drawn(experience, current, started, time.perf_counter())


def learn(parts: Assembly, state: State, drawn: Drawn) -> tuple[State, dict[str, float]]:
    """Update with the data of an iteration, and sync. Returns the new state and the metrics."""
    experience, began = drawn.experience, time.perf_counter()
    actor = parts.backend.update(experience.batch, state.iteration)
    updated = time.perf_counter()
    state = State(state.iteration + 1, state.policy_version + 1)
    sync_weights(parts.backend, parts.engine, state.policy_version, parts.traits.samples_with)
    ended = time.perf_counter()
    seconds = ended - began + drawn.ready - drawn.started
    return state, {
        "iteration": state.iteration,
        **experience.figures,
        **actor,
        "policy_version": state.policy_version,
        "time/update_s": updated - began,
        "time/sync_s": ended - updated,
        "time/iteration_s": seconds,
        "perf/samples_per_s": experience.samples / seconds,
        **_device_memory(parts.model.device),
    }


def one_iteration(parts: Assembly, state: State, note: Callable[[str], None]) -> tuple[State, Mapping[str, float]]:
    """One iteration without files: draw and learn. Returns the new state and metrics; ``note`` shows a sentence."""
    drawn = draw(parts, state)
    for sentence in drawn.experience.notes:
        note(sentence)
    return learn(parts, state, drawn)


def _device_memory(device: torch.device) -> dict[str, float]:
    """``perf/peak_memory_gib``: the peak GPU memory of the run so far, in GiB."""
    if device.type != "cuda":
        return {}
    return {"perf/peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def _is_known(directory: RunDirectory, iteration: int) -> bool:
    return any(row["iteration"] == iteration for row in artifacts.validations(directory))


def _is_due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0
