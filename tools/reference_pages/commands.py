"""The page about the command line, from the parser itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from omni_rl.cli import app
from omni_rl.plugins.discovery import known_plugins
from reference_pages.configuration import escaped

HEAD = """# Command line

Written by `python tools/reference.py` from the parser. `omni-rl COMMAND --help` shows the same text. The last
commands come from separate packages. If its package is not installed, a command prints what to install.

Exit codes: 2 for an error that the user can mend (configuration, data, plugins), with one message that says what is
wrong, where, and what to type next; 1 for a run that failed or that the gate refused; 130 for an interrupted run.
"""

EXTRAS = {"conformance": "testing"}
"""Commands whose extra of omni-rl has another name than the command."""


def page(root: Path) -> str:
    """The whole file."""
    del root
    command: Any = typer.main.get_command(app)
    context = command.make_context("omni-rl", [], resilient_parsing=True)
    names = [*command.commands, *known_plugins()["commands"]]  # not what else happens to be installed here
    return "\n".join([HEAD, *(_section(name, command.get_command(context, name)) for name in names)])


def _section(name: str, command: Any) -> str:
    usage = " ".join(["omni-rl", name, *_usage(command)])
    return (
        f"## {name}\n\n{command.help}\n{_package(name)}\n```text\n{usage}\n```\n\n" + "\n".join(_rows(command)) + "\n"
    )


def _package(command: str) -> str:
    """A paragraph that names the package of a command that is not core's own."""
    packages = known_plugins()["commands"].get(command, [])
    return "".join(
        f"\nFrom {package}: `pip install 'omni-rl[{EXTRAS.get(command, command)}]'`.\n" for package in packages
    )


def _usage(command: Any) -> Iterator[str]:
    if any(each.param_type_name == "option" for each in command.params):
        yield "[OPTIONS]"
    yield from (_metavar(each) for each in command.params if each.param_type_name == "argument")


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name)


def _rows(command: Any) -> Iterator[str]:
    yield "| | meaning | default |"
    yield "|---|---|---|"
    for each in command.params:
        names = _metavar(each) if each.param_type_name == "argument" else ", ".join(each.opts)
        said = not (each.required or each.default is None or each.default is False or each.nargs == -1)
        yield f"| `{names}` | {escaped(each.help)} | {f'`{each.default}`' if said else ''} |"
