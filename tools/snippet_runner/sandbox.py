"""An empty folder in which a page's blocks are run."""

from __future__ import annotations
import __future__

import contextlib
import doctest
import io
import json
import os
import shlex
import subprocess
import sys
import tomllib
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from snippet_runner.blocks import Block, Command, commands_of

MERGED = ("model", "rollout", "data", "train", "validation")
"""Sections that a part of a configuration adds to; the others name another plugin, and replace."""

TAKES_OVERRIDES = ("train", "check", "config", "resume")
FUTURE: int = __future__.annotations.compiler_flag
COMPARISON = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class SnippetError(Exception):
    """A block that fails, or shows what does not happen."""


class Sandbox:
    """Runs the blocks of one page, in order, in the working directory."""

    def __init__(self, page: Path, folder: Path, root: Path) -> None:
        self._page, self._site, self._root = page, folder / ".site", root
        self._names: dict[str, Any] = {"__name__": "__page__"}
        self._flags = 0
        self._site.mkdir()
        sys.path.insert(0, str(self._site))
        for plugin in ("omni-rl-vllm-omni", "omni-rl-veomni"):  # options are checked; the libraries need not be here
            self._install(root / "plugins" / plugin)

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            SnippetError: it fails.
        """
        if block.skipped is not None:
            return
        if block.title is not None:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            if block.language == "python":
                return
        kinds: Mapping[str, Callable[[Block], None]] = {
            "python": self._python,
            "yaml": self._yaml,
            "console": self._console,
            "toml": lambda block: _parsed(tomllib.loads, block),
            "json": lambda block: _parsed(json.loads, block),
            "text": lambda block: None,
        }
        with self._blamed(block.line):
            if block.language not in kinds:
                raise SnippetError(f"{block.language or 'an indented block'!r}: fence it as one of {', '.join(kinds)}")
            kinds[block.language](block)

    def close(self) -> None:
        """Forget what was installed."""
        sys.path.remove(str(self._site))

    @contextlib.contextmanager
    def _blamed(self, line: int) -> Iterator[None]:
        """What goes wrong inside is told with its place."""
        try:
            yield
        except SnippetError as error:
            place = "" if str(error).startswith(str(self._page)) else f"{self._page}:{line}: "
            raise SnippetError(f"{place}{error}") from error
        except Exception as error:
            raise SnippetError(f"{self._page}:{line}: {traceback.format_exc()}") from error

    def _python(self, block: Block) -> None:
        """With the page's own line numbers, and what earlier blocks imported from ``__future__``."""
        source = "\n" * (block.line - 1) + block.text
        code = compile(source, str(self._page), "exec", flags=self._flags, dont_inherit=True)
        self._flags |= code.co_flags & FUTURE
        exec(code, self._names)

    def _yaml(self, block: Block) -> None:
        from omni_rl.config.resolve import resolve

        given = yaml.safe_load(block.text)
        if block.title is not None and {"model", "algorithm"} <= given.keys():
            resolve(block.title, block.overrides)
            return
        base = yaml.safe_load((self._root / "examples/quickstart.yaml").read_text(encoding="utf-8"))
        whole = given if {"model", "algorithm", "data"} <= given.keys() else _laid_over(base, given)
        resolve(whole, block.overrides)

    def _console(self, block: Block) -> None:
        for command in commands_of(block):
            with self._blamed(command.line):
                self._command(command, block.overrides)

    def _command(self, command: Command, overrides: tuple[str, ...]) -> None:
        words = shlex.split(command.words, comments=True)
        match words:
            case ["cd", folder]:
                os.chdir(folder)
                return
            case ["pip", "install", *options, package] if set(options) <= {"-e", "--no-deps"}:
                self._install(Path(package.partition("[")[0]))
                return
            case ["omni-rl", name, *_]:
                code, output = _omni_rl([*words[1:], *(overrides if name in TAKES_OVERRIDES else ())])
            case _:
                code, output = self._shell(command.words)
        if command.shown and not doctest.OutputChecker().check_output(command.shown + "\n", output + "\n", COMPARISON):
            raise SnippetError(f"{command.words}\nshown:\n{command.shown}\nhappens:\n{output}")
        if code != 0 and "error:" not in command.shown:
            raise SnippetError(f"{command.words}\nends with status {code}:\n{output}")

    def _shell(self, command: str) -> tuple[int, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        quiet = "-p no:asyncio -p no:cacheprovider"  # a reader's pytest need not have our plugins
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(self._site), "PYTEST_ADDOPTS": quiet}
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
        return done.returncode, (done.stdout + done.stderr).strip()

    def _install(self, package: Path) -> None:
        """What pip would do without a registry: build the package's wheel, and unpack it."""
        from hatchling.build import build_wheel

        home = Path.cwd()
        os.chdir(package)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                wheel = self._site / build_wheel(str(self._site))
        finally:
            os.chdir(home)
        with zipfile.ZipFile(wheel) as content:
            content.extractall(self._site)
        wheel.unlink()


def _omni_rl(arguments: list[str]) -> tuple[int, str]:
    """Exit status and output of the command line, in this process: a new one would spend seconds on its imports."""
    from omni_rl.cli import main

    written, known = io.StringIO(), sys.argv
    sys.argv = ["omni-rl", *arguments]
    try:
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            main()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        sys.argv = known
    return code, written.getvalue().strip()


def _laid_over(base: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    added = {name: {**base.get(name, {}), **given[name]} for name in MERGED if isinstance(given.get(name), dict)}
    return {**base, **given, **added}


def _parsed(parse: Callable[[str], Any], block: Block) -> None:
    parse(block.text)
