"""The launcher suite passes the launcher ``local`` and fails one test for each way to break the contract."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from pathlib import Path

import pytest

from omni_rl.errors import RunError
from omni_rl.run.launchers import local
from omni_rl_testing.launcher import LauncherContract, as_json


class TestLocal(LauncherContract):
    @pytest.fixture
    def launcher(self):
        return local


def without_arguments(spec, entry, arguments):
    return local(spec, entry, {} if entry.endswith(":receive") else arguments)


def without_options(spec, entry, arguments):
    """Sends the names of the plugins only."""
    parts = tuple(part.model_copy(update={"options": {}}) for part in spec.parts)
    return local(spec.model_copy(update={"parts": parts}), entry, arguments)


def reading_the_output(spec, entry, arguments):
    """Takes what the process prints for its result."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        print(json.dumps(as_json(local(spec, entry, arguments))))
    return json.loads(printed.getvalue())


def without_result(spec, entry, arguments):
    local(spec, entry, arguments)


class Remembering:
    """Answers with the first result."""

    def __call__(self, spec, entry, arguments):
        if not hasattr(self, "answer"):
            self.answer = local(spec, entry, arguments)
        return self.answer


def changing(spec, entry, arguments):
    answer = local(spec, entry, dict(arguments))
    arguments["launched"] = True
    return answer


def without_hint(spec, entry, arguments):
    try:
        return local(spec, entry, arguments)
    except ValueError as error:
        raise type(error)(error.what) from error


def in_own_words(spec, entry, arguments):
    try:
        return local(spec, entry, arguments)
    except RuntimeError as error:
        raise RunError("the process failed") from error


def as_the_base_class(spec, entry, arguments):
    try:
        return local(spec, entry, arguments)
    except RuntimeError as error:
        raise RunError(str(error)) from error


def ignoring_a_crash(spec, entry, arguments):
    with contextlib.suppress(ZeroDivisionError):
        return local(spec, entry, arguments)


def writing_where_it_is(spec, entry, arguments):
    answer = local(spec, entry, arguments)
    Path("answer.json").write_text(json.dumps(as_json(answer)))
    return answer


def with_relative_paths(spec, entry, arguments):
    """Keeps the last folder of a path."""
    return local(spec, entry, {n: Path(v).name if n == "run_dir" else v for n, v in arguments.items()})


FAULTS = {
    without_arguments: "test_the_entry_gets_the_run_and_its_arguments",
    without_options: "test_the_entry_gets_the_run_and_its_arguments",
    reading_the_output: "test_the_entry_gets_the_run_and_its_arguments",
    without_result: "test_the_entry_gets_the_run_and_its_arguments",
    Remembering(): "test_every_call_has_its_own_result",
    changing: "test_arguments_are_only_read",
    without_hint: "test_an_error_of_the_user_reaches_the_caller",
    in_own_words: "test_an_error_of_the_run_reaches_the_caller",
    as_the_base_class: "test_an_error_of_the_run_reaches_the_caller",
    ignoring_a_crash: "test_a_fault_of_the_entry_is_no_result",
    writing_where_it_is: "test_the_working_directory_does_not_matter",
    with_relative_paths: "test_the_working_directory_does_not_matter",
}
TESTS = [name for name in dir(LauncherContract) if name.startswith("test_")]


@pytest.mark.parametrize(
    ("faulty", "test"), FAULTS.items(), ids=[getattr(each, "__name__", "Remembering") for each in FAULTS]
)
def test_a_fault_is_found(faulty, test, tmp_path, monkeypatch):
    method = getattr(LauncherContract(), test)
    kind = "ConfigError" if "user" in test else "GateError"
    given = {"kind": kind, "hint": "set device: cpu", "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        method(faulty, **{name: given[name] for name in given if name in inspect.signature(method).parameters})


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()
