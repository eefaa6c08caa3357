"""Results of the gate's checks, and their text form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omni_rl.errors import GateError, UserError

Verdict = Literal["ok", "fail", "info"]


_MARKS = {"ok": "ok  ", "fail": "FAIL", "info": "-   "}


@dataclass(frozen=True)
class Row:
    """The result of one check of the gate: its name, its verdict, and a sentence with the measured number.

    ``fault`` is the error if the user's own code or configuration caused the failure (e.g. a reward that raises).
    ``limit`` is what the measured number may be at most; None if the row has no such limit.
    """

    name: str
    verdict: Verdict
    detail: str
    fault: UserError | None = None
    limit: float | None = None


def table(rows: Sequence[Row]) -> str:
    """The rows as text with aligned columns."""
    width = max(len(r.name) for r in rows)
    return "\n".join(f"  {_MARKS[r.verdict]}  {r.name:<{width}}  {r.detail}" for r in rows)


def raise_on_failure(rows: Sequence[Row]) -> None:
    """Raise an error if a check failed.

    Raises:
        UserError: the first ``fault``, if every failed row has one.
        GateError: otherwise, with one sentence per failed row.
    """
    failing = [r for r in rows if r.verdict == "fail"]
    faults = [r.fault for r in failing if r.fault]
    if faults and len(faults) == len(failing):
        raise faults[0]
    if failing:
        sentences = "\n".join(f"  {r.name}: {r.detail}" for r in failing)
        raise GateError(
            f"the gate stops this run because {len(failing)} of {len(rows)} checks failed:\n{sentences}\n"
            "  fix the cause, or set `gate: warn` to train anyway"
        )


class Verdicts(list[Row]):
    """The gate's rows, convertible to JSON for other processes."""

    def to_json(self) -> list[dict[str, Any]]:
        """JSON data of each row, without ``fault``."""
        names = ("name", "verdict", "detail", "limit")
        return [{n: value for n in names if (value := getattr(row, n)) is not None} for row in self]

    @staticmethod
    def from_json(data: Sequence[Mapping[str, Any]]) -> Verdicts:
        """The inverse of :meth:`to_json`."""
        return Verdicts(Row(**row) for row in data)
