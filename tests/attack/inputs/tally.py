"""Counts of cases that were tried and that survived, and the list of those that fell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cases import Case
from forked import Ended
from schedules import SHOWN, report


@dataclass
class Tally:
    """The outcomes of one kind of case.

    Attributes:
        accepted, refused: how many ended rightly in either way.
        fallen: what went wrong, with what was printed.
    """

    kind: str
    accepted: int = 0
    refused: int = 0
    fallen: list[str] = field(default_factory=list)

    def add(self, case: Case, ended: Ended, wrong: str | None) -> None:
        """Count one case; ``wrong``: what is wrong with its end."""
        if wrong is not None:
            self.fallen.append(f"{case.what}: {wrong}\n{_ending(ended)}")
        elif ended.code == 0:
            self.accepted += 1
        else:
            self.refused += 1

    @property
    def counts(self) -> dict[str, int]:
        """``tried``, ``survived``, and of these ``accepted`` and ``refused``."""
        survived = self.accepted + self.refused
        tried = survived + len(self.fallen)
        return {"tried": tried, "survived": survived, "accepted": self.accepted, "refused": self.refused}

    def finish(self, record_property: Callable[[str, object], None]) -> None:
        """Report and print the counts; fail if a case fell."""
        report(record_property, self.kind, self.counts)
        print(f"{self.kind}: {self.counts}")
        listed = "\n".join(self.fallen[:SHOWN])
        assert not self.fallen, f"{len(self.fallen)} of {self.counts['tried']} fell\n{listed}"


def _ending(ended: Ended) -> str:
    return "".join(f"    {line[:300]}\n" for line in ended.said.splitlines()[-12:])
