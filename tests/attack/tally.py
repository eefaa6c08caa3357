"""Counts of cases that were tried and that survived, and the list of those that fell."""

from __future__ import annotations

from dataclasses import dataclass, field

from cases import Case
from forked import Ended

SHOWN = 25


@dataclass
class Tally:
    """The outcomes of one kind of case.

    Attributes:
        trained, refused: how many were accepted and how many refused, rightly.
        fallen: what went wrong, with what was printed.
    """

    kind: str
    trained: int = 0
    refused: int = 0
    fallen: list[str] = field(default_factory=list)

    def add(self, case: Case, ended: Ended, wrong: str | None) -> None:
        """Count one case; ``wrong``: what is wrong with its end."""
        if wrong is not None:
            self.fallen.append(f"{case.what}: {wrong}\n{_ending(ended)}")
        elif ended.code == 0:
            self.trained += 1
        else:
            self.refused += 1

    @property
    def counts(self) -> dict[str, int]:
        """``tried``, ``survived``, and of these ``accepted`` and ``refused``."""
        survived = self.trained + self.refused
        tried = survived + len(self.fallen)
        return {"tried": tried, "survived": survived, "accepted": self.trained, "refused": self.refused}

    def finish(self) -> None:
        """Print the counts; fail if a case fell."""
        print(f"{self.kind}: {self.counts}")
        listed = "\n".join(self.fallen[:SHOWN])
        assert not self.fallen, f"{len(self.fallen)} of {self.counts['tried']} fell\n{listed}"


def _ending(ended: Ended) -> str:
    lines = [line[:300] for line in ended.said.splitlines()[-12:]]
    return "".join(f"    {line}\n" for line in lines)
