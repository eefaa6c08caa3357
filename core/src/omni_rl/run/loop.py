"""One training run, top to bottom: sample -> score -> advantage -> update -> sync.

What is not here: the denoising loop (``omni_rl.sampling.denoise``), the update itself (``omni_rl.training``), and the
formulas (the algorithm's plugin).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from omni_rl.errors import RunError
from omni_rl.run.experience import gather
from omni_rl.run.validation import validate

if TYPE_CHECKING:
    from omni_rl.run.start import Run


def run_loop(run: Run) -> None:
    """All remaining iterations; leaves the run saved, also when Ctrl-C asks it to stop early.

    A run that is complete is only validated again: its process may have ended before it wrote its report.
    """
    config = run.config
    with _stop_on_interrupt() as stop:
        if run.iteration == 0 or run.iteration >= config.train.iterations:
            run.record_validation(validate(run, run.iteration))
        while run.iteration < config.train.iterations and not stop.is_set():
            row = one_iteration(run)
            if _is_due(run.iteration, config.validation.every) or run.iteration == config.train.iterations:
                validated = validate(run, run.iteration)
                row |= validated.row()
                run.record_validation(validated)
            run.record_iteration(row)
            if _is_due(run.iteration, config.train.checkpoint_every) or run.iteration == config.train.iterations:
                run.save()
        if stop.is_set():
            run.save()
            run.interrupted = True


def one_iteration(run: Run) -> dict[str, float]:
    """Sample, score, update and sync once; returns the metrics row and leaves ``run.iteration`` one higher."""
    started = time.perf_counter()
    iteration = run.iteration
    experience = gather(run)
    ready = time.perf_counter()
    actor = run.backend.update(experience.batch, iteration)
    updated = time.perf_counter()
    sync_weights(run)
    run.iteration = iteration + 1
    ended = time.perf_counter()
    return {
        "iteration": run.iteration,
        **experience.figures,
        **actor,
        "policy_version": run.policy_version,
        "time/update_s": updated - ready,
        "time/sync_s": ended - updated,
        "time/iteration_s": ended - started,
        "perf/samples_per_s": experience.samples / (ended - started),
        **_device_memory(run),
    }


def _device_memory(run: Run) -> dict[str, float]:
    """``perf/peak_memory_gib``: the most the run has held on its GPU so far."""
    if run.model.device.type != "cuda":
        return {}
    return {"perf/peak_memory_gib": torch.cuda.max_memory_allocated(run.model.device) / 2**30}


def sync_weights(run: Run) -> None:
    """Give the engine the new weights and check its receipt: every parameter landed, under the new version."""
    run.policy_version += 1
    report = run.sync_engine()
    missing = run.model.parameters().keys() - report.landed.keys()
    if missing or report.policy_version != run.policy_version:
        what = f"{len(missing)} weights did not reach it, e.g. {min(missing)}" if missing else "it kept an old version"
        raise RunError(f"the engine did not take policy version {run.policy_version}: {what}")


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
