"""Functions that the launcher suite starts, in a module of their own that every process can import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omni_rl import errors
from omni_rl.contracts.spec import RunSpec


@dataclass(frozen=True)
class Received:
    """What an entry received: the run's specification as JSON, and its other arguments."""

    spec: str
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for another process."""
        return asdict(self)


def receive(spec: RunSpec, **arguments: Any) -> Received:
    """Return what was received. It also prints, as runs do."""
    print("this line is for the user, not for the launcher")
    return Received(spec.to_json(), arguments)


def write(spec: RunSpec, run_dir: str) -> Received:
    """Write a file into the run directory, and return its folder."""
    folder = Path(run_dir)
    folder.mkdir(parents=True)
    (folder / "written.txt").write_text("by the entry")
    return Received(spec.to_json(), {"run_dir": run_dir})


def fail(spec: RunSpec, kind: str, what: str, hint: str | None = None) -> Received:
    """Raise an error of omni-rl: a UserError has a hint, a RunError has none."""
    error = getattr(errors, kind)
    raise error(what, hint) if issubclass(error, errors.UserError) else error(what)


def break_down(spec: RunSpec) -> Received:
    """Raise an error that is not one of omni-rl's."""
    raise ZeroDivisionError("a fault in the code of a run")
