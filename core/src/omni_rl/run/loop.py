"""One training run, top to bottom: experience -> update -> sync, with validations and checkpoints in between.

Where each step lives: sampling and scoring in ``run/experience.py`` (the denoising loop in ``sampling/denoise.py``),
the update in ``training/backend.py``, the formulas in the algorithm's plugin, weights on their way to the engine in
``run/weight_sync.py``, held-out scores in ``run/validation.py``, checkpoints in ``run/state.py``, what is written and
shown in ``reporting/recorder.py``.
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
    """How the loop ended; ``interrupted``: Ctrl-C ended it early, after saving."""

    state: State
    interrupted: bool


def run_loop(parts: Assembly, recorder: Recorder, state: State) -> Finished:
    """All remaining iterations; leaves the run saved, also when Ctrl-C asks it to stop early.

    A run that is complete is only validated again: its process may have ended before it wrote its report.
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
    """Experience, update and sync once; the state after it, and the metrics row. ``note`` shows a sentence."""
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
    """``perf/peak_memory_gib``: the most the run has held on its GPU so far."""
    if device.type != "cuda":
        return {}
    return {"perf/peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def _is_due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the loop to finish its iteration and save; the second one interrupts at once."""
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
