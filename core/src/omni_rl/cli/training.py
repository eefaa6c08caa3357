"""Output that the commands ``train`` and ``resume`` share."""

from __future__ import annotations

import shlex
import signal

import typer

from omni_rl.reporting import artifacts
from omni_rl.storage.run_folder import RunDirectory


def announce(directory: RunDirectory, iteration: int, stopped: int | None) -> None:
    """Print the last lines of a run: the change of the held-out reward, and the path of the report.

    Args:
        iteration: the last complete one.
        stopped: the signal that ended the run; None: it is complete.

    Raises:
        typer.Exit: with code 128 + its number (130 for Ctrl-C) if a signal ended the run.
    """
    validations = [row for row in artifacts.validations(directory) if "val/reward/mean" in row]
    if validations and validations[-1]["iteration"] > validations[0]["iteration"]:
        first, last = validations[0], validations[-1]
        error = f" (standard error {last['val/reward/stderr']:.3f})" if "val/reward/stderr" in last else ""
        print(f"held-out reward {first['val/reward/mean']:.3f} -> {last['val/reward/mean']:.3f}{error}")
    if stopped is not None:
        cause = "stopped" if stopped == signal.SIGINT else f"stopped by {signal.Signals(stopped).name}"
        again = f"omni-rl resume {shlex.quote(str(directory.path))}"
        print(f"{cause} after iteration {iteration}; continue with: {again}")
        raise typer.Exit(128 + stopped)
    print(f"report: {directory.path / 'report.html'}")
