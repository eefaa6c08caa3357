"""Counts of the cases of a schedule. ``benchmarks/attack.py`` collects them from the tests' reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN = 12
PROPERTY = "attack"
"""The name of the property of a test's report that holds its counts, as JSON with the key ``schedule``."""


def report(record_property: Callable[[str, object], None], schedule: str, counts: Mapping[str, Any]) -> None:
    """Put the counts of a schedule into the test's report; those of several tests are added up."""
    record_property(PROPERTY, json.dumps({"schedule": schedule, **counts}))


@dataclass
class Schedule:
    """The outcomes of one schedule.

    Attributes:
        name: of the schedule.
        tried: number of cases.
        fallen: the cases that did not survive, and why.
        lost: of each case that survived, the complete iterations that it lost.
    """

    name: str
    tried: int = 0
    fallen: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def add(self, case: str, wrong: str | None, lost: int = 0) -> None:
        """Count a case; ``wrong``: why it did not survive."""
        self.tried += 1
        if wrong is None:
            self.lost.append(lost)
        else:
            self.fallen.append(f"{case}: {wrong}")

    def finish(self, record_property: Callable[[str, object], None]) -> None:
        """Report and print the counts; fail if a case fell."""
        worst = max(self.lost, default=0)
        counts = {"tried": self.tried, "survived": len(self.lost), "worst_loss_in_iterations": worst}
        report(record_property, self.name, counts)
        print(f"{self.name}: {counts}")
        listed = "\n".join(self.fallen[:SHOWN])
        assert not self.fallen, f"{len(self.fallen)} of {self.tried} cases of '{self.name}' fell\n{listed}"
