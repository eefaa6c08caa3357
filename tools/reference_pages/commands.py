"""The page about the command line, from the parser itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from omni_rl.cli import app
from reference_pages.configuration import escaped

HEAD = """# Command line

Written by `python tools/reference.py` from the parser. `omni-rl COMMAND --help` shows the same text. The commands
`export` (package `omni-rl-export`), `conformance` and `new` (package `omni-rl-testing`) exist if their package is
installed.

Exit codes: 2 for an error that the user can mend (configuration, data, plugins), with one message that says what is
wrong, where, and what to type next; 1 for a run that failed or that the gate refused; 130 for an interrupted run.
"""


def page(root: Path) -> str:
    """The whole file."""
    del root
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(_section(name, group.get_command(None, name)) for name in group.list_commands(None))])


def _section(name: str, command: Any) -> str:
    usage = " ".join(["omni-rl", name, *_usage(command)])
    return f"## {name}\n\n{command.help}\n\n```text\n{usage}\n```\n\n" + "\n".join(_rows(command)) + "\n"


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
