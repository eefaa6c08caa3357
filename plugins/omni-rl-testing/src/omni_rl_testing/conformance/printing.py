"""Output of ``omni-rl conformance``: one line per check; for a failure also its purpose and the hook to fix."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from omni_rl_testing.conformance.running import SUITE, Check, Verdict, require_pytest, run
from omni_rl_testing.conformance.subjects import Subject, subjects

INDENT = " " * 11
PYTESTS_HINT = "Use -v to get more diff"
"""pytest's last line of an assertion; `omni-rl conformance` has no option -v."""
MOST_LINES = 12
"""Maximum number of lines of a reason; ``--trace`` shows all."""


class Printer:
    """Prints checks as they end, under a heading for each plugin."""

    def __init__(self, trace: bool) -> None:
        self.checks: list[Check] = []
        self._trace = trace

    def __call__(self, check: Check) -> None:
        """Print one check."""
        before = self.checks[-1] if self.checks else None
        self.checks.append(check)
        if before is None or before.subject is not check.subject:
            print(f"\n{check.subject} ({check.subject.offer.target})")
        print(f"  {check.verdict:<7}  {check.name}", flush=True)
        for line in self._details(check, before is not None and _alike(before, check)):
            print(f"{INDENT}{line}".rstrip())

    def _details(self, check: Check, repeated: bool) -> list[str]:
        if not check.reason:
            return []
        if repeated:
            return ["for the same reason"]
        reason = check.trace.splitlines() if self._trace and check.trace else _shortened(check.reason)
        return [*reason, *(inspect.cleandoc(check.purpose).splitlines() if check.verdict == "FAILED" else [])]

    def summary(self, source: str) -> str:
        """``omni-rl-ocr 0.1.0 conforms: 20 ok, 2 skipped``."""
        counts = Counter(check.verdict for check in self.checks)
        how = {0: "conforms", 1: "does not conform", 2: "was not tested completely"}[self.code]
        figures = ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])
        untried = [str(check.subject) for check in self.checks if check.name == SUITE]
        return f"\n{source} {how}: {figures}" + (f"; no suite ran for {', '.join(untried)}" if untried else "")

    @property
    def code(self) -> int:
        """1 if a check failed, 2 if a suite needs an argument that the caller did not give, otherwise 0."""
        if any(check.verdict == "FAILED" for check in self.checks):
            return 1
        return 2 if any(check.unproven for check in self.checks) else 0


def print_report(distribution: str, *, trace: bool, **selection: Any) -> int:
    """Print the report and return the exit status; ``selection`` as in :func:`subjects`.

    Raises:
        UserError: pytest is not installed, or as :func:`subjects`.
    """
    from omni_rl.cli.arguments import quiet

    require_pytest()
    selected: Sequence[Subject] = subjects(distribution, **selection)
    quiet()
    printer = Printer(trace)
    run(selected, printer)
    print(printer.summary(selected[0].offer.source))
    return printer.code


def _alike(a: Check, b: Check) -> bool:
    return a.subject is b.subject and (a.reason, a.purpose) == (b.reason, b.purpose)


def _shortened(text: str) -> list[str]:
    lines = [line for line in text.strip().splitlines() if line.strip() != PYTESTS_HINT]
    left = len(lines) - MOST_LINES
    return lines if left <= 0 else [*lines[:MOST_LINES], f"... and {left} lines more (--trace shows everything)"]
