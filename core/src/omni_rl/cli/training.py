"""Output that the commands ``train`` and ``resume`` share."""

from __future__ import annotations

import shlex
import signal

import typer

from omni_rl.reporting import artifacts
from omni_rl.run.start import Run


def announce(run: Run) -> None:
    """Print the last lines of a run: the change of the held-out reward, and the path of the report.

    Raises:
        typer.Exit: with code 128 + its number (130 for Ctrl-C) if a signal ended the run.
    """
    validations = [row for row in artifacts.validations(run.directory) if "val/reward/mean" in row]
    if validations and validations[-1]["iteration"] > validations[0]["iteration"]:
        first, last = validations[0], validations[-1]
        error = f" (standard error {last['val/reward/stderr']:.3f})" if "val/reward/stderr" in last else ""
        print(f"held-out reward {first['val/reward/mean']:.3f} -> {last['val/reward/mean']:.3f}{error}")
    if run.signal is not None:
        cause = "stopped" if run.signal == signal.SIGINT else f"stopped by {signal.Signals(run.signal).name}"
        again = f"omni-rl resume {shlex.quote(str(run.directory.path))}"
        print(f"{cause} after iteration {run.state.iteration}; continue with: {again}")
        raise typer.Exit(128 + run.signal)
    print(f"report: {run.directory.path / 'report.html'}")
