"""Output that the commands ``train`` and ``resume`` share."""

from __future__ import annotations

import typer

from omni_rl.reporting import artifacts
from omni_rl.run.start import Run


def announce(run: Run) -> None:
    """Print the last lines of a run: the change of the held-out reward, and the path of the report.

    Raises:
        typer.Exit: with code 130 when the run was interrupted.
    """
    validations = [row for row in artifacts.validations(run.directory) if "val/reward/mean" in row]
    first, last = (validations[0], validations[-1]) if validations else ({"iteration": 0}, {"iteration": 0})
    if last["iteration"] > first["iteration"]:
        error = f" (standard error {last['val/reward/stderr']:.3f})" if "val/reward/stderr" in last else ""
        print(f"held-out reward {first['val/reward/mean']:.3f} -> {last['val/reward/mean']:.3f}{error}")
    if run.interrupted:
        print(f"stopped after iteration {run.state.iteration}; continue with: omni-rl resume {run.directory.path}")
        raise typer.Exit(130)
    print(f"report: {run.directory.path / 'report.html'}")
