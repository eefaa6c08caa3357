"""Run the suites with pytest, one class per subject, and report the result of every check."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from omni_rl.errors import UserError
from omni_rl_testing.conformance.subjects import Subject

if TYPE_CHECKING:
    import pytest

Verdict = Literal["ok", "FAILED", "skipped"]

SUITES = "omni_rl_testing.offered"
WITHOUT = ("cacheprovider", "terminal", "unraisableexception")
"""Plugins of pytest that are switched off: they write a folder, print, or take more time than a suite."""
IMPORTS = "it can be imported, and its hooks are those of the contract"
SUITE = "its suite"
NOT_MADE = "The check did not start, because a fixture failed; --trace shows where."


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: a sentence without its full stop.
        reason: why it failed or was skipped; "" if it passed.
        purpose: why the check exists, and which hook to fix.
        trace: pytest's own report of a failure.
        unproven: skipped because the caller did not give an argument that it needs.
    """

    subject: Subject
    name: str
    verdict: Verdict
    reason: str = ""
    purpose: str = ""
    trace: str = ""
    unproven: bool = False


Report = Callable[[Check], None]


def require_pytest() -> None:
    """Raise UserError if the extra ``testing`` is not installed."""
    if util.find_spec("pytest") is None:
        raise UserError("the suites need pytest, which is not installed", "pip install 'omni-rl[testing]'")


def run(subjects: Sequence[Subject], report: Report) -> None:
    """Run every subject's suite; ``report`` receives each check as it ends.

    Raises:
        UserError: pytest is not installed.
    """
    require_pytest()
    for subject in subjects:
        if subject.problem is not None:
            report(Check(subject, IMPORTS, "FAILED", subject.problem))
            continue
        report(Check(subject, IMPORTS, "ok"))
        if reason := subject.unsuited or subject.missing:
            report(Check(subject, SUITE, "skipped", reason, unproven=subject.unsuited is None))
        else:
            _run_suite(subject, report)


def _run_suite(subject: Subject, report: Report) -> None:
    import pytest

    session = _Session(subject, report)
    with tempfile.TemporaryDirectory() as folder, _alone():
        settings = Path(folder, "pytest.ini")  # otherwise pytest would use settings of a parent folder
        settings.write_text("[pytest]\n")
        options = [f"--config-file={settings}", f"--rootdir={folder}", f"--basetemp={folder}/tmp", "--noconftest"]
        without = [f"-pno:{name}" for name in WITHOUT]
        code = pytest.main([_path_of(SUITES), *options, *without], plugins=[session])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        report(Check(subject, SUITE, "FAILED", session.trouble or f"pytest ended with {code!r}", trace=session.trouble))


@contextmanager
def _alone() -> Iterator[None]:
    """A context in which pytest loads no other installed plugins."""
    mine = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": ""}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _path_of(module: str) -> str:
    """The file of a module, found without importing it, because pytest must import it to rewrite its assertions."""
    package, _, name = module.rpartition(".")
    spec = util.find_spec(package.partition(".")[0])
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent.joinpath(*package.split(".")[1:], f"{name}.py"))


class _Session:
    """A pytest plugin that collects the subject's suite and reports the result of each check."""

    def __init__(self, subject: Subject, report: Report) -> None:
        self.subject, self.report = subject, report
        self.trouble = ""

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """Collect a module that contains the subject's suite instead of the file's own content."""
        import pytest

        from omni_rl_testing import show_compared_values

        show_compared_values()  # the distribution may have imported this package before pytest started
        from omni_rl_testing.offered import module_of

        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path)
        try:
            module.obj = module_of(self.subject)
        except UserError as error:
            self.trouble = str(error)
            module.obj = ModuleType("nothing")
        return module

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Report each check once: at its end, or when a fixture fails."""
        if report.when == "call" or report.outcome != "passed":
            self.report(self._check(report))

    def _check(self, report: pytest.TestReport) -> Check:
        properties = dict(report.user_properties)
        if report.passed:
            return Check(self.subject, str(properties["name"]), "ok")
        reason = _reason(report)
        verdict: Verdict = "skipped" if report.skipped else "FAILED"
        trace = "" if report.skipped else report.longreprtext
        purpose = str(properties["purpose"]) if report.when == "call" else NOT_MADE
        return Check(self.subject, str(properties["name"]), verdict, reason, purpose, trace)

    def pytest_itemcollected(self, item: pytest.Function) -> None:
        """Store the check's name and purpose for its report."""
        item.user_properties += [("name", _sentence(item)), ("purpose", item.function.__doc__ or "")]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Store the error if the suite cannot be collected."""
        if report.failed:
            self.trouble += report.longreprtext

    def pytest_internalerror(self, excrepr: Any) -> None:
        """Store an internal error of pytest."""
        self.trouble += str(excrepr)


def _sentence(item: pytest.Function) -> str:
    """``test_order_does_not_matter[alone]`` -> ``order does not matter (alone)``."""
    words = item.originalname.removeprefix("test_").replace("_", " ")
    case = getattr(item, "callspec", None)
    return f"{words} ({case.id})" if case is not None else words


def _reason(report: pytest.TestReport) -> str:
    """The text of a skip, or the error of a failure."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else report.longreprtext
