"""The tracker ``{{ cookiecutter.key }}``: a line of a CSV file for every metric of every iteration."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from omni_rl import hookimpl
from omni_rl.authoring.tracker import reward_figures
from omni_rl.contracts import RunInfo, Sample
from pydantic import BaseModel, ConfigDict, Field


class CsvTracker:
    """Lines of iteration, metric and value."""

    class Config(BaseModel):
        """Options beside ``name: {{ cookiecutter.key }}`` in the section ``tracker``."""

        model_config = ConfigDict(extra="forbid")

        file: str = Field(default="metrics.csv", description="name of the file in the run directory")

    def __init__(self, config: Config) -> None:
        self.config = config
        self._path: Path | None = None
        self._file: TextIO | None = None

    @hookimpl
    def on_run_start(self, run: RunInfo) -> None:
        """Open the file; a resumed run goes on in the one that it had."""
        self._path = self._path or run.directory / self.config.file
        self._file = self._path.open("a", encoding="utf-8", newline="")

    @hookimpl
    def on_iteration_end(self, row: Mapping[str, float]) -> None:
        """The metrics of an iteration; values may be NaN."""
        self._write(row, int(row["iteration"]))

    @hookimpl
    def on_validation(self, iteration: int, samples: Sequence[Sample], rewards: torch.Tensor) -> None:
        """Mean and standard error of the rewards; a sample that failed has no trajectory and the reward NaN."""
        self._write({f"val/{name}": value for name, value in reward_figures(rewards.numpy()).items()}, iteration)

    @hookimpl
    def on_run_end(self, error: BaseException | None) -> None:
        """Close, also after an error of the run."""
        self.close(failed=error is not None)

    def state(self) -> dict[str, Any]:
        """The file, for a checkpoint."""
        return {"path": str(self._path) if self._path else ""}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the same file; ``state`` is empty for a checkpoint that was written without this tracker."""
        self._path = Path(state["path"]) if state.get("path") else None

    def close(self, failed: bool = False) -> None:
        """May be called twice, and before the start."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _write(self, row: Mapping[str, float], iteration: int) -> None:
        assert self._file is not None, "on_run_start comes first"
        csv.writer(self._file).writerows([iteration, name, value] for name, value in row.items() if name != "iteration")
        self._file.flush()
