"""Rules about imports and lengths that import-linter cannot hold: open-ended names, plugins, the template, snippets.

The import law itself stands in the root pyproject.toml, under ``[tool.importlinter]``; `nox -s lint` holds it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

import omni_rl

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core/src/omni_rl"
CORE_FILES = sorted(CORE.rglob("*.py"))
PARTS_OF_CORE = {"omni-rl-testing", "omni-rl-export", "omni-rl-trackers"}
"""Shipped apart, pinned to core's exact version: these alone may import anything of it."""

surface_snapshot = import_module("surface_snapshot")
PUBLIC_MODULES, PUBLIC_PACKAGES = surface_snapshot.MODULES, surface_snapshot.PACKAGES

PLUGIN_SOURCES = sorted(
    path
    for package in ROOT.glob("plugins/*")
    if package.name not in PARTS_OF_CORE
    for path in (package / "src").rglob("*.py")
)
TEMPLATES = sorted((ROOT / "plugin-template").rglob("*.py"))
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "adr"]

FROM = r"from[ \t]+(?P<module>[\w.]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n]+)"
IMPORT = re.compile(rf"^[ \t]*(?:{FROM}|import[ \t]+(?P<modules>[^\n]+))", re.MULTILINE)

MAX_TOP_FILES = 4
MAX_FUNCTION = 40
MAX_MEDIAN = 6


class Import(NamedTuple):
    """``from module import name``; of ``import module`` the name is empty."""

    module: str
    name: str

    @property
    def target(self) -> str:
        return f"{self.module}.{self.name}".rstrip(".")


def imports_in(text: str) -> Iterator[Import]:
    """Every import of a text, wherever it stands: read without parsing, for templates and pages are not Python."""
    for match in IMPORT.finditer(text):
        named = re.sub(r"#[^\n]*", "", match["names"] or match["modules"])
        for each in named.strip("() \n").split(","):
            name = each.split(" as ")[0].strip()
            if name:
                yield Import(match["module"], name) if match["module"] else Import(name, "")


def ours(path: Path) -> list[Import]:
    """The imports of omni_rl and of packages that are named after it."""
    found = imports_in(path.read_text(encoding="utf-8"))
    return [each for each in found if re.match(r"omni_rl(_\w+)?(\.|$)", each.module)]


def is_public(each: Import) -> bool:
    """Whether a plugin may write it; of other packages only the parts of core are judged."""
    if any(part.startswith("_") for part in each.target.split(".")):
        return False
    top = each.module.partition(".")[0]
    if top != "omni_rl":
        return top in PUBLIC_PACKAGES or top.replace("_", "-") not in PARTS_OF_CORE
    if each.module == "omni_rl":
        return not each.name or each.name in omni_rl.__all__ or each.target in {*PUBLIC_MODULES, *PUBLIC_PACKAGES}
    return each.module in PUBLIC_MODULES or ".".join(each.module.split(".")[:2]) in PUBLIC_PACKAGES


def refused(path: Path) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {each.target}" for each in ours(path) if not is_public(each)]


def test_the_files_are_found() -> None:
    assert min(len(CORE_FILES), len(PLUGIN_SOURCES)) > 20
    assert min(len(TEMPLATES), len(PAGES)) > 4
    assert {path.name for path in ROOT.glob("plugins/*")} >= PARTS_OF_CORE


def test_core_imports_no_package_named_after_it() -> None:
    named = {f"{path.relative_to(ROOT)}: {each.module}" for path in CORE_FILES for each in ours(path)}
    assert {each for each in named if ": omni_rl_" in each} == set()


@pytest.mark.parametrize("files", [PLUGIN_SOURCES, TEMPLATES, PAGES], ids=["plugins", "template", "snippets"])
def test_only_the_public_surface_is_imported(files: list[Path]) -> None:
    wrong = list(chain.from_iterable(map(refused, files)))
    assert wrong == [], "what may be imported: " + ", ".join([*PUBLIC_MODULES, *PUBLIC_PACKAGES])


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("from omni_rl import hookimpl", True),
        ("from omni_rl import contracts", True),
        ("import omni_rl.authoring.model as m", True),
        ("from omni_rl.contracts.types import (\n    Streams,  # by name\n    Tensors,\n)", True),
        ("from omni_rl_testing.toy import toy_model", True),
        ("from omni_rl import sampling", False),
        ("from omni_rl import hookimpl, sampling", False),
        ("from omni_rl.contracts import _private", False),
        ("from omni_rl._lazy import exports", False),
        ("    import os, omni_rl.run.loop", False),
        ("from omni_rl_export import export", False),
        ("from omni_rl.errors_of_mine import Error", False),
    ],
)
def test_what_counts_as_public(line: str, allowed: bool) -> None:
    assert all(map(is_public, [each for each in imports_in(line) if each.module.startswith("omni_rl")])) == allowed


def test_no_module_imports_names_of_a_package_that_it_is_in() -> None:
    """A circle that import-linter does not see: it compares siblings, and a package is no sibling of its modules."""
    assert [wrong for path in CORE_FILES for wrong in imports_from_around(path)] == []


def imports_from_around(path: Path) -> list[str]:
    parts = path.relative_to(CORE.parent).parts[:-1]
    around = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)} - {module_of(path)}
    names = [each for each in ours(path) if each.module in around and not exists(each.target)]
    return [f"{path.relative_to(ROOT)}: {each.target}" for each in names]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE.parent).with_suffix("").parts).removesuffix(".__init__")


def exists(module: str) -> bool:
    stem = CORE.parent / module.replace(".", "/")
    return stem.with_suffix(".py").exists() or (stem / "__init__.py").exists()


def test_the_top_of_core_is_rooms() -> None:
    assert len(list(CORE.glob("*.py"))) <= MAX_TOP_FILES, sorted(path.name for path in CORE.glob("*.py"))


def test_only_the_room_run_knows_the_assembly() -> None:
    outside = [path for path in CORE_FILES if CORE / "run" not in path.parents]
    assert [path for path in outside if "Assembly" in set(words_of(path))] == []


def words_of(path: Path) -> Iterator[str]:
    """The names and attributes of a file; text in strings and comments does not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        yield getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) or ""


def test_a_finished_run_is_returned_and_never_taken() -> None:
    assert [f"{path}: {name}" for path in CORE_FILES for name in takes_a_run(path)] == []


def takes_a_run(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) == "Run":
            yield node.arg


def test_no_protocol_is_hidden_behind_getattr() -> None:
    """What core needs of an algorithm, an engine or a backend is in their types."""
    asked = {f"{path}: {name}" for path in CORE_FILES for name in attributes_asked_of_plugins(path)}
    assert asked == set()


def attributes_asked_of_plugins(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            name = ast.unparse(node.args[0]).split(".")[-1]
            if name in ("algorithm", "engine", "backend", "source", "launcher"):
                yield ast.unparse(node)


def test_the_testing_kit_pretends_no_type() -> None:
    kit = sorted((ROOT / "plugins/omni-rl-testing/src").rglob("*.py"))
    assert [path for path in kit if "cast" in set(words_of(path))] == []


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file, and its lines without its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            said = lines_of(first) if ast.get_docstring(node) is not None else 0
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines_of(node) - said


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_core_functions_are_short() -> None:
    lengths = dict(chain.from_iterable(map(functions, CORE_FILES)))
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION} == {}
    assert median(lengths.values()) <= MAX_MEDIAN
