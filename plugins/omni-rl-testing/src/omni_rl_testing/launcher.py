"""Contract tests of launchers. See :class:`LauncherContract`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from omni_rl import errors
from omni_rl.contracts.interfaces import Launcher
from omni_rl.contracts.spec import LocalFile, Part, RunSpec
from omni_rl_testing.entries import Received

MODULE = "omni_rl_testing.entries"
SPEC = RunSpec(
    core=("omni_rl.run.core_hooks",),
    parts=(Part(kind="algorithms", key="under-test", options={"clip_range": 1e-3, "limit": math.inf}),),
    files=(LocalFile(path="/somewhere/local.py", content='WORD = "größer"\n', sha256="0"),),
    config={"seed": None, "train": {"lr": 1e-5, "betas": [0.9, 0.999]}, "data": {"path": "prompts.txt"}},
)
ARGUMENTS: Mapping[str, Any] = {
    "show": True,
    "number": 7,
    "fraction": 0.1,
    "nothing": None,
    "text": 'two lines,\n "quoted", größer',
    "many": [1, [2.5, "three"]],
    "named": {"a": {"b": []}},
}


class LauncherContract:
    """Checks that a run can be started with a launcher. Inherit it and supply one fixture.

    ``launcher``: a callable ``launcher(spec, entry, arguments)``. For a class with a ``Config``, an instance. The other
    process, if there is one, must be able to import ``omni_rl_testing``.
    """

    def test_the_entry_gets_the_run_and_its_arguments(self, launcher: Launcher) -> None:
        """The entry is called once, with an equal specification and equal arguments, and its result is returned.

        Fix ``__call__``: pass everything on, e.g. with ``omni_rl.authoring.engine.pack`` and ``run_entry``, and return
        what the function returned, e.g. with ``unpack``. What the entry prints is not the result.
        """
        assert received(launcher, ARGUMENTS) == Received(SPEC.to_json(), ARGUMENTS).to_json()

    def test_every_call_has_its_own_result(self, launcher: Launcher) -> None:
        """A process may start several runs, one after the other.

        Fix ``__call__``: keep no result, file or process of an earlier call.
        """
        found = [received(launcher, {"number": number})["arguments"] for number in (1, 2)]
        assert found == [{"number": 1}, {"number": 2}]

    def test_arguments_are_only_read(self, launcher: Launcher) -> None:
        """The caller may use its arguments again.

        Fix ``__call__``: copy the mapping before you change it.
        """
        given = copy.deepcopy(dict(ARGUMENTS))
        received(launcher, given)
        assert given == ARGUMENTS

    @pytest.mark.parametrize(("kind", "hint"), [("ConfigError", "set device: cpu"), ("DataError", None)])
    def test_an_error_of_the_user_reaches_the_caller(self, launcher: Launcher, kind: str, hint: str | None) -> None:
        """The command line shows message and hint of a UserError, and exits with 2.

        Fix ``__call__``: raise the entry's error with its class, ``what`` and ``hint``; ``unpack`` does so.
        """
        arguments = {"kind": kind, "what": "prompts.txt:3: no prompt", "hint": hint}
        with pytest.raises(errors.UserError) as raised:
            launcher(SPEC, f"{MODULE}:fail", arguments)
        assert (type(raised.value).__name__, raised.value.what, raised.value.hint) == (kind, arguments["what"], hint)

    @pytest.mark.parametrize("kind", ["RunError", "GateError"])
    def test_an_error_of_the_run_reaches_the_caller(self, launcher: Launcher, kind: str) -> None:
        """A RunError says why a run ended; without its message, nobody can know.

        Fix ``__call__``: raise the entry's error with its class and message; ``unpack`` does so.
        """
        with pytest.raises(errors.RunError) as raised:
            launcher(SPEC, f"{MODULE}:fail", {"kind": kind, "what": "3 updates in a row were skipped"})
        assert (type(raised.value).__name__, str(raised.value)) == (kind, "3 updates in a row were skipped")

    def test_a_fault_of_the_entry_is_no_result(self, launcher: Launcher) -> None:
        """Any other error must end the call with an error too, because a run that crashed is not finished.

        Fix ``__call__``: check the exit status of the process.
        """
        with pytest.raises(Exception, match=r"\w"):
            launcher(SPEC, f"{MODULE}:break_down", {})

    def test_the_working_directory_does_not_matter(
        self, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run directory is an absolute path, so a launcher works in any working directory, and writes nothing there.

        Fix ``__call__``: pass paths on as they are, and use absolute paths and temporary folders for own files.
        """
        here, run_dir = tmp_path / "here", tmp_path / "runs" / "first"
        here.mkdir()
        monkeypatch.chdir(here)
        answer = as_json(launcher(SPEC, f"{MODULE}:write", {"run_dir": str(run_dir)}))
        assert answer["arguments"] == {"run_dir": str(run_dir)}
        assert (run_dir / "written.txt").read_text() == "by the entry"
        assert list(here.iterdir()) == []


def received(launcher: Launcher, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the entry ``receive`` received, as JSON data."""
    return as_json(launcher(SPEC, f"{MODULE}:receive", arguments))


def as_json(answer: Any) -> dict[str, Any]:
    """The result of an entry: the object itself from this process, JSON data from another one."""
    assert isinstance(answer, (Received, dict)), f"the entry's result is lost: {answer!r}"
    return answer.to_json() if isinstance(answer, Received) else answer
