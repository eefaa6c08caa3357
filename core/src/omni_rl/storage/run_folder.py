"""The run directory, with all files of one run.

It contains ``config.resolved.yaml`` (all effective values), ``metrics.jsonl`` (one JSON object per iteration),
``provenance.json`` (model, data, versions), ``images/``, ``videos/`` (for video models), ``checkpoints/`` (see
:mod:`omni_rl.storage.checkpoint`) and ``report.html``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omni_rl.contracts.input_files import parse_json
from omni_rl.errors import CheckpointError, UserError, did_you_mean
from omni_rl.storage import lock
from omni_rl.storage.durable import append, is_temporary, write_atomic

_OWN = re.compile(
    r"config\.resolved\.yaml|metrics\.jsonl|validation\.jsonl|gate\.json|provenance\.json|report\.html|error\.txt"
    r"|run\.lock|images|images/(validation-\d+\.(png|safetensors)|before\.safetensors|before_after\.png)"
    r"|videos|videos/validation-\d+-\d+\.mp4|checkpoints"
)
"""What a run writes before its first checkpoint, relative to its folder."""

_FOLDERS = ("images", "videos", "checkpoints")
_POINTER = "latest.json"


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
        self._made = False

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """Create the folder of a new run; an empty folder may exist already.

        Raises UserError when the folder is not empty or cannot be created; then nothing new is left on the disk.
        """
        run = cls(path)
        run.require_free()
        run._clear()  # what a run that was killed at its start has left
        absent = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        _make_folders([*reversed(absent), run.images, run.checkpoints])
        run._made = run.path in absent
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
        """Raise UserError unless the folder does not exist, is empty, or holds only what a run left that was killed
        before it wrote its configuration. Creates nothing.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return
        if self.config_file.is_file():
            raise UserError(
                f"the run directory {self.path} exists and is not empty",
                f"give another one with --run-dir, or continue that run with: omni-rl resume {self.path}",
            )
        if not self.path.is_dir() or self._foreign():
            raise UserError(
                f"{self.path} exists and is not empty, and it is not a run directory", "give another one with --run-dir"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder; see :mod:`omni_rl.storage.lock`."""
        with lock.locked(self.path):
            yield

    def discard(self) -> bool:
        """Delete what a run without a checkpoint wrote, and its folder if :meth:`create` made it.

        Returns whether it did. If there is another file in the folder, nothing is deleted.
        """
        if self._foreign():
            return False
        with contextlib.suppress(OSError):
            self._clear()
            if self._made:
                self.path.rmdir()
        return True

    def check(self) -> None:
        """Check that no folder has the name of a file that the run will write, and no file that of a folder.

        Raises:
            CheckpointError: one has.
        """
        entries = [*self.path.glob("*"), *self.images.glob("*"), *self.videos.glob("*"), self.checkpoints / _POINTER]
        for entry in entries:
            name = entry.relative_to(self.path).as_posix()
            folder = name in _FOLDERS
            if (_OWN.fullmatch(name) or entry.name == _POINTER) and entry.exists() and entry.is_dir() != folder:
                is_now, should = ("a file", "a folder") if folder else ("a folder", "a file")
                raise CheckpointError(f"{entry} is {is_now}, but a run has {should} there", "move it to another place")

    def sweep(self) -> None:
        """Delete the half-written files of a killed process. Only the owner of the lock may do this."""
        for file in (*self.path.glob(".*"), *self.images.glob(".*"), *self.videos.glob(".*")):
            if is_temporary(file) and not file.is_dir():
                file.unlink(missing_ok=True)

    def _foreign(self) -> list[Path]:
        """What is in the folder and was not written by a run before its first checkpoint."""
        return [entry for entry in self.path.rglob("*") if not self._is_own(entry)]

    def _is_own(self, entry: Path) -> bool:
        name = entry.relative_to(self.path).as_posix()
        folder = name in _FOLDERS
        known = _OWN.fullmatch(name) is not None or is_temporary(entry)
        return known and not entry.is_symlink() and entry.is_dir() == folder

    def _clear(self) -> None:
        if self.path.is_dir():
            for entry in sorted(self.path.rglob("*"), reverse=True):  # files before their folders
                entry.rmdir() if entry.is_dir() else entry.unlink()

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
        append(self.metrics_file, (json.dumps(dict(row)) + "\n").encode())

    def metrics(self) -> list[dict[str, float]]:
        """All complete rows. A last line without a newline was cut off by a crash and is ignored."""
        return [row for _, row in self._rows()]

    def truncate_metrics(self, iteration: int, last: Mapping[str, float] | None = None) -> None:
        """Delete the rows after ``iteration`` (of a checkpoint), because a resumed run writes them again.

        ``last``: the row of ``iteration``, which is written if the file does not have it.
        """
        rows = self._rows()
        kept = [line for line, row in rows if row["iteration"] <= iteration]
        if last is not None and all(row["iteration"] != iteration for _, row in rows):
            kept.append(json.dumps(dict(last)).encode())
        write_atomic(self.metrics_file, b"".join(line + b"\n" for line in kept))

    def amend_metrics(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Add figures to the row of ``iteration``."""
        rows = [{**row, **figures} if row["iteration"] == iteration else row for _, row in self._rows()]
        write_atomic(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def contiguous_metrics(self, iteration: int, last: Mapping[str, float] | None = None) -> list[dict[str, float]]:
        """The rows of the iterations 1 to ``iteration``; later rows may follow them in the file.

        ``last``: the row of ``iteration``, in case that the file does not have it.

        Raises:
            CheckpointError: a row is missing, double, or in the wrong place.
        """
        rows = self.metrics()
        if last is not None and len(rows) == iteration - 1:
            rows.append(dict(last))
        for number, row in enumerate(rows, 1):
            if row["iteration"] != number:
                what = f"{self.metrics_file}, line {number} has iteration {row['iteration']} instead of {number}"
                raise CheckpointError(f"{what}: rows are missing or double", _METRICS_HINT)
        if len(rows) < iteration:
            ends = f"{self.metrics_file} ends with iteration {len(rows)}"
            raise CheckpointError(f"{ends}, but the checkpoint is of iteration {iteration}", _METRICS_HINT)
        return rows[:iteration]

    def _rows(self) -> list[tuple[bytes, dict[str, float]]]:
        if not self.metrics_file.exists():
            return []
        if not self.metrics_file.is_file():
            raise CheckpointError(f"{self.metrics_file} is not a file", _METRICS_HINT)
        lines = self.metrics_file.read_bytes().split(b"\n")[:-1]
        return [(line, self._parse(line, number)) for number, line in enumerate(lines, 1)]

    def _parse(self, line: bytes, number: int) -> dict[str, float]:
        try:
            row = parse_json(line.decode())
        except ValueError as error:
            where = f"{self.metrics_file}, line {number}"
            raise CheckpointError(f"{where} is not JSON: {error}", _METRICS_HINT) from error
        if not is_row(row):
            raise CheckpointError(f"{self.metrics_file}, line {number} is not a metrics row", _METRICS_HINT)
        known: dict[str, float] = row
        return known


def is_row(row: Any) -> bool:
    """Whether data is a row of metrics or of a validation: numbers by name, with the number of an iteration."""
    return (
        isinstance(row, dict)
        and type(row.get("iteration")) is int
        and all(isinstance(value, (int, float)) for value in row.values())
    )


_METRICS_HINT = "restore metrics.jsonl as this run wrote it; without it, train again with another --run-dir"


def metrics_hash(rows: Sequence[Mapping[str, float]]) -> str:
    """sha256 of metrics rows, of the last one without the figures of its validation, which may be added later."""
    plain = [{name: value for name, value in row.items() if not name.startswith("val/")} for row in rows[-1:]]
    return _hash([*rows[:-1], *plain])


def row_hashes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A hash of each row of validations by its iteration."""
    return {str(row["iteration"]): _hash(row)[:16] for row in rows}


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


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
        what = f"cannot create the run directory ({error.strerror}): {folders[-1].parent}"
        raise UserError(what, "give another one with --run-dir") from error
