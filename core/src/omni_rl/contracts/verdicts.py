"""The gate's verdicts, and how a table of them is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omni_rl.errors import GateError, UserError

Verdict = Literal["ok", "fail", "info"]


_MARKS = {"ok": "ok  ", "fail": "FAIL", "info": "-   "}


@dataclass(frozen=True)
class Row:
    """One line of the gate: what was checked, how it came out, and the number or sentence that says so.

    ``fault`` is set where the check met a mistake of the user's own (a reward that raises).
    """

    name: str
    verdict: Verdict
    detail: str
    fault: UserError | None = None


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    width = max(len(r.name) for r in rows)
    return "\n".join(f"  {_MARKS[r.verdict]}  {r.name:<{width}}  {r.detail}" for r in rows)


def raise_on_failure(rows: Sequence[Row]) -> None:
    """Nothing when all rows hold.

    Raises:
        UserError: nothing but the user's own mistakes failed; the first of them.
        GateError: otherwise, with one sentence per failing row.
    """
    failing = [r for r in rows if r.verdict == "fail"]
    faults = [r.fault for r in failing if r.fault]
    if faults and len(faults) == len(failing):
        raise faults[0]
    if failing:
        sentences = "\n".join(f"  {r.name}: {r.detail}" for r in failing)
        raise GateError(
            f"the gate refuses this run, {len(failing)} of {len(rows)} checks fail:\n{sentences}\n"
            "  mend the cause, or set `gate: warn` to train all the same"
        )


class Verdicts(list[Row]):
    """The gate's rows as a result that other processes can read."""

    def to_json(self) -> list[dict[str, str]]:
        """Plain data; a row's ``fault`` is left out, its sentence stays."""
        return [{"name": row.name, "verdict": row.verdict, "detail": row.detail} for row in self]

    @staticmethod
    def from_json(data: Sequence[Mapping[str, Any]]) -> Verdicts:
        """The inverse of :meth:`to_json`."""
        return Verdicts(Row(**row) for row in data)
