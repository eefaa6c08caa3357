"""Where the names of contract 1 are now, for errors about plugins that were written for it.

``moved.json`` holds {old dotted name: new dotted name}, of modules and of names in them, or null for what is gone; the
page docs/migration.md is written from it. A name that it does not list has the same name at the
new path of its module.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from omni_rl.plugins.blame import CodeLine

SHOWN = 8
"""Lines of an error; a plugin of a hundred imports must not fill the screen."""


@cache
def moved() -> Mapping[str, str | None]:
    """The table: old dotted name -> new one, or None for what is gone."""
    text = resources.files("omni_rl.plugins").joinpath("moved.json").read_text(encoding="utf-8")
    table: dict[str, str | None] = json.loads(text)
    return table


def new_path(module: str, name: str = "") -> str | None:
    """The dotted name that takes the place of ``module``, or of ``name`` in it; the same one if it did not move."""
    old = f"{module}.{name}".rstrip(".")
    if old in moved():
        return moved()[old]
    home = moved().get(module, module)
    return home and f"{home}.{name}".rstrip(".")


def is_about_omni_rl(error: BaseException) -> bool:
    """Whether something of omni-rl could not be imported."""
    return isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "omni_rl"


def advice(sources: Iterable[str]) -> list[str]:
    """Lines for an error: what of the imports in these Python texts moved, and where to; none if nothing did."""
    lines = list(dict.fromkeys(line for source in sources for line in _moved_imports(source)))
    if not lines:
        return []
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ["Imports to change (all of them: docs/migration.md):", *(f"  {line}" for line in lines[:SHOWN]), *more]


def advice_on(error: BaseException, at: CodeLine | None) -> list[str]:
    """The lines for the file whose import of omni-rl failed in the line ``at``."""
    if at is None or not is_about_omni_rl(error):
        return []
    path = Path(at.file)
    return advice([path.read_text(encoding="utf-8", errors="replace")]) if path.is_file() else []


def sources_of(module: str) -> Iterator[str]:
    """The text of a top-level module or package, read without importing it."""
    spec = find_spec(module)
    origin = Path(spec.origin) if spec and spec.origin else None
    if origin and origin.suffix == ".py":
        for path in sorted(origin.parent.rglob("*.py")) if spec and spec.submodule_search_locations else [origin]:
            yield path.read_text(encoding="utf-8", errors="replace")


def _moved_imports(source: str) -> Iterator[str]:
    for module, name in _imports(source):
        old, new = f"{module}.{name}".rstrip("."), new_path(module, name)
        if new != old and not _is_module(old):
            yield f"{old} is {f'now {new}' if new else 'gone'}"


def _imports(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of omni-rl; of ``import module`` the name is empty."""
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("omni_rl."))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("omni_rl."):
            yield from ((str(node.module), alias.name) for alias in node.names)


def _nodes(source: str) -> Iterator[ast.AST]:
    try:
        return ast.walk(ast.parse(source))
    except (SyntaxError, ValueError):
        return iter(())


def _is_module(name: str) -> bool:
    """``omni_rl.run`` was a module, with names that moved, and is a package now, with modules that did not."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
