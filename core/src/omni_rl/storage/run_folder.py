"""The run directory, with all files of one run.

It contains ``config.resolved.yaml`` (all effective values), ``metrics.jsonl`` (one JSON object per iteration),
``provenance.json`` (model, data, versions), ``images/``, ``videos/`` (for video models), ``checkpoints/`` (see
:mod:`omni_rl.storage.checkpoint`) and ``report.html``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from omni_rl.errors import CheckpointError, UserError, did_you_mean
from omni_rl.storage.durable import write_atomic, writing


def default_path(config_stem: str) -> Path:
    """``runs/<stem>-<YYYYmmdd-HHMMSS>``, local time, relative to the working directory."""
    return Path("runs") / f"{config_stem}-{datetime.now():%Y%m%d-%H%M%S}"


class RunDirectory:
    """The files of a run. :meth:`create` and :meth:`open` check the folder; the constructor checks nothing.

    Attributes:
        path: the folder, as the user gave it.
        config_file, metrics_file, images, videos, checkpoints: paths inside it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.resolved.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.images = self.path / "images"
        self.videos = self.path / "videos"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """Create the folder of a new run; an empty folder may exist already.

        Raises UserError when the folder is not empty or cannot be created; then nothing new is left on the disk.
        """
        run = cls(path)
        run.require_free()
        absent = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        _make_folders([*reversed(absent), run.images, run.checkpoints])
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The folder of an existing run; CheckpointError when there is none at ``path``."""
        run = cls(path)
        if not run.path.is_dir():
            beside = run.path.parent.iterdir() if run.path.parent.is_dir() else ()
            similar = did_you_mean(run.path.name, [entry.name for entry in beside if entry.is_dir()])
            raise CheckpointError(f"there is no run directory {run.path}.{similar}")
        if not run.config_file.is_file():
            raise CheckpointError(
                f"{run.path} is not a run directory: it has no {run.config_file.name}",
                "give the folder that `omni-rl train` printed when it started",
            )
        return run

    def require_free(self) -> None:
        """Raise UserError unless the folder does not exist or is empty. Creates nothing."""
        if self.path.exists() and not _is_empty_folder(self.path):
            raise UserError(
                f"the run directory {self.path} exists and is not empty",
                f"give another one with --run-dir, or continue that run with: omni-rl resume {self.path}",
            )

    def write_config(self, text: str) -> None:
        """Write the resolved configuration (YAML)."""
        write_atomic(self.config_file, text.encode())

    def write_json(self, name: str, data: Any) -> Path:
        """Write ``data`` atomically as the JSON file ``name`` in the folder, and return its path."""
        path = self.path / name
        write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
        return path

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append the row of one iteration; ``row["iteration"]`` counts from 1. The row is on disk when this returns.

        Floats are read back exactly; non-finite floats are written as Python's ``NaN`` and ``Infinity``.
        """
        line = (json.dumps(dict(row)) + "\n").encode()
        with writing(self.metrics_file, len(line)), self.metrics_file.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, float]]:
        """All complete rows. A last line without a newline was cut off by a crash and is ignored."""
        return [row for _, row in self._rows()]

    def truncate_metrics(self, iteration: int) -> None:
        """Delete the rows after ``iteration`` (of a checkpoint), because a resumed run writes them again."""
        kept = [line for line, row in self._rows() if row["iteration"] <= iteration]
        write_atomic(self.metrics_file, b"".join(line + b"\n" for line in kept))

    def _rows(self) -> list[tuple[bytes, dict[str, float]]]:
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().split(b"\n")[:-1]
        return [(line, self._parse(line, number)) for number, line in enumerate(lines, 1)]

    def _parse(self, line: bytes, number: int) -> dict[str, float]:
        try:
            row = json.loads(line)
        except ValueError as error:
            where = f"{self.metrics_file}, line {number}"
            raise CheckpointError(f"{where} is not JSON: {error}", "delete that line") from error
        if not isinstance(row, dict) or "iteration" not in row:
            raise CheckpointError(f"{self.metrics_file}, line {number} is not a metrics row", "delete that line")
        return row


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _make_folders(folders: list[Path]) -> None:
    """Create ``folders``, outermost first, or none of them."""
    made: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir()
            made.append(folder)
    except OSError as error:
        for folder in reversed(made):
            folder.rmdir()
        what = f"cannot create the run directory {folders[-1].parent}: {error.strerror} ({error.filename})"
        raise UserError(what, "give another one with --run-dir") from error
