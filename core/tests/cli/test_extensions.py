"""Commands that other packages add: found, absent, broken, claimed twice, misspelt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from omni_rl.cli import main
from omni_rl.plugins import discovery

WORKS = '''
def greet(name: str) -> None:
    """Greet somebody."""
    print(f"good morning, {name}")
'''
PLAIN = "import package_that_does_not_exist"
NO_COMMAND = "greet = 3"
STRANGE = "def greet(x: int | dict[str, int]) -> None: ..."  # typer cannot read such a type from a command line


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["omni-rl", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return Outcome(int(left.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package("polite", WORKS)``: the distribution omni-rl-polite offers the command ``greet`` with this code."""
    monkeypatch.delenv("OMNI_RL_DISABLE", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(name, code, *commands):
        site, module = tmp_path / "site", f"fake_commands_{name}"
        info = site / f"omni_rl_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: omni-rl-{name}\nVersion: 1.0\n")
        offered = "".join(f"{command} = {module}:greet\n" for command in commands or ["greet"])
        contract = f"[omni_rl.contract]\n{discovery.CONTRACT_MAJOR} = {module}\n"
        (info / "entry_points.txt").write_text(f"[omni_rl.commands]\n{offered}{contract}")
        (site / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        os.utime(site)
        discovery._distributions.cache_clear()

    yield install
    discovery._distributions.cache_clear()


@pytest.fixture
def without(monkeypatch):
    """Take distributions away, as if they had never been installed."""
    everything = discovery.distributions

    def remove(*names):
        monkeypatch.setattr(discovery, "distributions", lambda: [d for d in everything() if d.name not in names])

    return remove


def test_a_package_adds_a_command(call, package):
    package("polite", WORKS)
    assert re.search(r"^  greet +Greet somebody\.$", call("--help").out, re.MULTILINE)
    assert call("greet", "Ada") == (0, "good morning, Ada\n", "")
    assert "omni-rl greet " in call("greet", "--help").out


def test_a_command_of_core_cannot_be_replaced(call, package):
    package("greedy", WORKS, "train")
    assert "CONFIG" in call("train", "--help").out
    assert len(re.findall(r"^  train ", call("--help").out, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("command", "distribution", "line"),
    [
        ("export", "omni-rl-export", "pip install 'omni-rl[export]'"),
        ("new", "omni-rl-testing", "pip install 'omni-rl[new]'"),
        ("conformance", "omni-rl-testing", "pip install omni-rl-testing"),
    ],
)
@pytest.mark.parametrize("words", [[], ["some", "--thing", "else"], ["--help"]])
def test_an_absent_command_says_what_to_install(call, without, command, distribution, line, words):
    without(distribution)
    outcome = call(command, *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: No command {command!r} is installed.\n")
    assert f"{line}   (offers command {command!r})" in outcome.err
    assert not re.search(rf"^  {command} ", call("--help").out, re.MULTILINE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(PLAIN, "No module named 'package_that_does_not_exist'"), (NO_COMMAND, "TypeError"), (STRANGE, "Union types")],
    ids=["import", "no function", "annotation"],
)
def test_a_broken_command_says_why_and_hides_no_other(call, package, code, reason):
    package("polite", WORKS, "salute")
    package("ill", code, "greet")
    outcome = call("greet", "Ada")
    assert outcome.code == 2
    assert "omni-rl-ill 1.0 offers command 'greet' but is broken." in outcome.err
    assert reason in outcome.err
    listed = call("--help")
    assert listed.code == 0
    assert re.search(r"^  greet +\(cannot be used: omni-rl-ill 1\.0 offers", listed.out, re.MULTILINE)
    assert re.search(r"^  salute +Greet somebody\.$", listed.out, re.MULTILINE)


def test_a_command_that_two_packages_claim_names_both(call, package):
    package("polite", WORKS)
    package("rude", WORKS)
    outcome = call("greet", "Ada")
    assert outcome.code == 2
    assert "command 'greet' is offered by omni-rl-polite 1.0 and by omni-rl-rude 1.0." in outcome.err
    assert "OMNI_RL_DISABLE=omni-rl-rude" in outcome.err
    assert len(re.findall(r"^  greet +\(cannot be used: ", call("--help").out, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "train"), ("exprt", "export"), ("conformence", "conformance"), ("great", "greet")]
)
def test_a_misspelt_command_suggests_the_nearest(call, package, without, typed, meant):
    """Core's own, one that is installed, and one that could be."""
    package("polite", WORKS)
    without("omni-rl-export")
    outcome = call(typed)
    assert outcome.code == 2
    assert outcome.err == (
        f"error: there is no command {typed!r}. Did you mean {meant!r}?\n  omni-rl --help lists what is installed\n"
    )


def test_a_word_like_no_command_suggests_nothing(call):
    assert call("zzz").err == "error: there is no command 'zzz'.\n  omni-rl --help lists what is installed\n"


def test_an_option_is_not_taken_for_a_command(call):
    outcome = call("--verson")
    assert outcome.code == 2
    assert "No such option: --verson" in outcome.err


def test_help_with_a_package_that_adds_a_command_imports_no_torch(package, tmp_path):
    package("polite", WORKS)
    code = "import sys\nfrom omni_rl.cli import app\ntry:\n    app(['--help'])\nfinally:\n    print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "COVERAGE_PROCESS_START": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert "greet" in done.stdout
    imported = set(done.stdout.splitlines()[-1].split())
    assert "fake_commands_polite" in imported
    assert not imported & {"torch", "diffusers", "transformers", "peft", "tensordict"}
