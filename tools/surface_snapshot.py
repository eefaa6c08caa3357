"""Write the snapshot of the public surface that ``core/tests/test_public_surface.py`` compares.

    python tools/surface_snapshot.py           # write, after a change that is meant
    python tools/surface_snapshot.py --check   # exit 1, and say what differs

Read from the sources, so that it is the same under every version of Python and of what omni-rl depends on.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "core/tests/public_surface.json"
SOURCES = (ROOT / "core/src", ROOT / "plugins/omni-rl-testing/src")

MODULES = ("omni_rl", "omni_rl.errors")
PACKAGES = ("omni_rl.authoring", "omni_rl.contracts", "omni_rl.objectives", "omni_rl.schedulers", "omni_rl_testing")
"""With all modules in them."""

COMMAND = "python tools/surface_snapshot.py"
LONGEST = 100
"""Characters of a constant's value that are recorded; of a longer one only that it exists."""

Shape = dict[str, "str | Shape"]
"""Name -> signature, or what a class has."""


def current() -> dict[str, Shape]:
    """Public module -> its public names, sorted, with signatures."""
    return {module: surface_of(module) for module in modules()}


def modules() -> list[str]:
    """Every public module, by name."""
    inside = (_module_of(path) for package in PACKAGES for path in _file_of(package).parent.rglob("*.py"))
    return sorted({*MODULES, *(name for name in inside if not _is_private(name))})


def surface_of(module: str) -> Shape:
    """The names of one module: those that its stub exports, or of ``__all__``, or else what it defines."""
    defined, imported = _definitions(module), _imports(module)
    listed = list(imported) if _file_of(module).suffix == ".pyi" else _listed(module)
    names = [name for name in defined if not name.startswith("_")] if listed is None else listed
    return {name: defined[name] if name in defined else _elsewhere(imported, name) for name in sorted(names)}


def differences(old: dict[str, Shape], new: dict[str, Shape]) -> list[str]:
    """What came, went and changed: dotted names, with what they are and were."""
    before, now = dict(_flat("", old)), dict(_flat("", new))
    gone = [f"gone:    {name} {before[name]}" for name in before if name not in now]
    new_names = [f"new:     {name} {now[name]}" for name in now if name not in before]
    changed = [
        f"changed: {name} {before[name]}  to  {now[name]}"
        for name in before
        if name in now and before[name] != now[name]
    ]
    return [*gone, *new_names, *changed]


def _flat(prefix: str, shape: dict[str, Shape] | Shape) -> Iterator[tuple[str, str]]:
    for name, value in shape.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _elsewhere(imported: dict[str, str], name: str) -> str | Shape:
    """A name from another module: where it stands if that is public (or a version), otherwise what it is."""
    home = imported[name]
    return f"= {home}.{name}" if home in modules() or name.startswith("__") else _definitions(home)[name]


def _is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


def _file_of(module: str) -> Path:
    stems = [source / module.replace(".", "/") for source in SOURCES]
    files = [
        path
        for stem in stems
        for path in (stem / "__init__.pyi", stem / "__init__.py", stem.with_suffix(".pyi"), stem.with_suffix(".py"))
    ]
    return next(path for path in files if path.exists())


def _module_of(path: Path) -> str:
    source = next(source for source in SOURCES if path.is_relative_to(source))
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file_of(module).read_text(encoding="utf-8"))


def _listed(module: str) -> list[str] | None:
    """What ``__all__`` names; None where there is none."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def _imports(module: str) -> dict[str, str]:
    """Name -> the module that it is imported from."""
    found = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in found for alias in node.names}


@cache
def _definitions(module: str) -> Shape:
    return _names(_tree(module).body)


def _names(body: list[ast.stmt]) -> Shape:
    """What a module or a class defines."""
    found: Shape = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = _signature(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = _class(node)
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = f": {ast.unparse(node.annotation)}{_value(node.value)}"
        elif isinstance(node, ast.Assign):
            value = _value(node.value).strip()
            found |= {ast.unparse(target): value for target in node.targets}
    return found


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    kinds = [ast.unparse(each) for each in node.decorator_list]
    kind = next((f"{each} " for each in ("property", "classmethod", "staticmethod") if each in kinds), "")
    returns = ast.unparse(node.returns) if node.returns else "?"
    return f"{kind}({ast.unparse(node.args)}) -> {returns}"


def _class(node: ast.ClassDef) -> Shape:
    """Bases, constructor, public members; tests of a contract suite are nobody's interface."""
    hidden = ("_", "test_")
    members = {name: value for name, value in _names(node.body).items() if not name.startswith(hidden)}
    own = {name: value for name, value in _names(node.body).items() if name in ("__init__", "__call__")}
    bases = f"({', '.join(map(ast.unparse, node.bases))})"
    return {"class": bases, **dict(sorted({**own, **members}.items()))}


def _value(node: ast.expr | None) -> str:
    """`` = value``; a help text is left out, its wording is no part of the surface."""
    if node is None:
        return ""
    if isinstance(node, ast.Call):
        node = ast.Call(node.func, node.args, [each for each in node.keywords if each.arg != "description"])
    text = ast.unparse(node)
    return f" = {text if len(text) <= LONGEST else '...'}"


def main(arguments: list[str]) -> int:
    """Write the snapshot, or with ``--check`` only compare it."""
    now = current()
    if arguments != ["--check"]:
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return 0
    different = differences(json.loads(SNAPSHOT.read_text(encoding="utf-8")), now)
    print("\n".join([*different, f"if meant: {COMMAND}"] if different else ["the snapshot is up to date"]))
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
