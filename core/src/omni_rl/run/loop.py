"""The training loop: experience -> update -> sync, with validations and checkpoints in between.

The parts are in these modules: sampling and scoring in ``run/experience.py`` (the denoising loop in
``sampling/denoise.py``), updates in ``training/backend.py``, losses in the algorithm's plugin, the weight sync in
``run/weight_sync.py``, validation in ``run/validation.py``, checkpoints in ``run/state.py``, files and progress output
in ``reporting/recorder.py``.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from omni_rl.contracts.events import State
from omni_rl.reporting.recorder import Recorder
from omni_rl.run.assembly import Assembly
from omni_rl.run.experience import check_staleness
from omni_rl.run.state import save
from omni_rl.run.validation import validate
from omni_rl.run.weight_sync import sync_weights


class Finished(NamedTuple):
    """The end of the loop; ``interrupted``: Ctrl-C ended it early, after a checkpoint."""

    state: State
    interrupted: bool


def run_loop(parts: Assembly, recorder: Recorder, state: State) -> Finished:
    """Run all remaining iterations and save a checkpoint at the end, also after Ctrl-C.

    A finished run is only validated again, because its process may have ended before it wrote the report.
    """
    config = parts.config
    with _stop_on_interrupt() as stop:
        if state.iteration == 0 or state.iteration >= config.train.iterations:
            recorder.validation(state, validate(parts, state))
        while state.iteration < config.train.iterations and not stop.is_set():
            state, row = one_iteration(parts, state, recorder.progress.note)
            last = state.iteration == config.train.iterations
            if _is_due(state.iteration, config.validation.every) or last:
                validated = validate(parts, state)
                row |= validated.row()
                recorder.validation(state, validated)
            recorder.iteration(state, row)
            if _is_due(state.iteration, config.train.checkpoint_every) or last:
                recorder.checkpoint(state, save(parts, recorder.directory, state))
        if stop.is_set():
            recorder.checkpoint(state, save(parts, recorder.directory, state))
        return Finished(state, stop.is_set())


def one_iteration(parts: Assembly, state: State, note: Callable[[str], None]) -> tuple[State, dict[str, float]]:
    """Run one iteration: experience, updates, sync. Returns the new state and metrics; ``note`` shows a sentence."""
    started = time.perf_counter()
    experience = parts.source.next(state)
    check_staleness(experience, parts.source, state)
    for sentence in experience.notes:
        note(sentence)
    ready = time.perf_counter()
    actor = parts.backend.update(experience.batch, state.iteration)
    updated = time.perf_counter()
    state = State(state.iteration + 1, state.policy_version + 1)
    sync_weights(parts.backend, parts.engine, state.policy_version, parts.traits.samples_with)
    ended = time.perf_counter()
    return state, {
        "iteration": state.iteration,
        **experience.figures,
        **actor,
        "policy_version": state.policy_version,
        "time/update_s": updated - ready,
        "time/sync_s": ended - updated,
        "time/iteration_s": ended - started,
        "perf/samples_per_s": experience.samples / (ended - started),
        **_device_memory(parts.model.device),
    }


def _device_memory(device: torch.device) -> dict[str, float]:
    """``perf/peak_memory_gib``: the peak GPU memory of the run so far, in GiB."""
    if device.type != "cuda":
        return {}
    return {"perf/peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def _is_due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """After the first Ctrl-C, the loop finishes its iteration and saves; the second Ctrl-C interrupts it at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    default = signal.getsignal(signal.SIGINT)

    def ask_to_stop(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, default)
        print("\nfinishing this iteration, then saving; Ctrl-C again to stop at once", flush=True)

    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, default)
