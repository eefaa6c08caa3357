"""Output that the commands ``train`` and ``resume`` share."""

from __future__ import annotations

import typer

from omni_rl.reporting import artifacts
from omni_rl.storage.run_folder import RunDirectory


def announce(directory: RunDirectory, stopped_after: int | None) -> None:
    """Print the last lines of a run: the change of the held-out reward, and the path of the report.

    Args:
        stopped_after: the iteration after which Ctrl-C stopped the run; None: it is complete.

    Raises:
        typer.Exit: with code 130 when the run was interrupted.
    """
    validations = artifacts.validations(directory)
    first, last = validations[0], validations[-1]
    if last["iteration"] > first["iteration"]:
        error = f" (standard error {last['val/reward/stderr']:.3f})" if "val/reward/stderr" in last else ""
        print(f"held-out reward {first['val/reward/mean']:.3f} -> {last['val/reward/mean']:.3f}{error}")
    if stopped_after is not None:
        print(f"stopped after iteration {stopped_after}; continue with: omni-rl resume {directory.path}")
        raise typer.Exit(130)
    print(f"report: {directory.path / 'report.html'}")
