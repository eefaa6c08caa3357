"""The page about hooks: every one in the order of the contract, as ``omni_rl.contracts.hooks`` describes it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from omni_rl.contracts import hooks
from omni_rl.contracts.context import ENGINE_HOOKS
from omni_rl.plugins.checks import qualified_name
from omni_rl.plugins.contract import SPECS, Spec
from omni_rl.run import core_hooks

HEAD = """# Hooks

Written by `python tools/reference.py` from `omni_rl.contracts.hooks`, contract {version}.

{rules}

The examples below need these imports:

```python
from __future__ import annotations

import torch

from omni_rl import hookimpl
from omni_rl.contracts.types import LossOutput
```

*Default* is the implementation that is used if no plugin implements the hook. *Called by* lists the callers, without
the gate and the contract suites. An engine in other processes may call only some hooks; it declares which ones, and
`omni-rl check` fails if a plugin of the run overrides another one.
"""
SILENT = ("gate", "testing")
"""Packages whose calls of hooks are not listed: they call the same hooks as a run."""
WIDTH = 120
"""Of a line; ``ruff format`` looks at the page as well."""


def page(root: Path) -> str:
    """The whole file."""
    version = f"{hooks.CONTRACT_MAJOR}.{hooks.CONTRACT_MINOR}"
    parts = [HEAD.format(version=version, rules=markdown(hooks.__doc__ or "")), _index()]
    calls = callers(root / "core/src")
    for title, specs in groups().items():
        parts.append(f"## {title}\n")
        parts += [_section(spec, calls.get(spec.name, [])) for spec in specs]
    return "\n".join(parts)


def groups() -> dict[str, list[Spec]]:
    """Hooks by the headings of the module."""
    lines = inspect.getsource(hooks).splitlines()
    heads = {i: found[1].capitalize() for i, line in enumerate(lines, 1) if (found := re.match(r"# -+ (.+)$", line))}
    grouped: dict[str, list[Spec]] = {title: [] for title in heads.values()}
    for spec in SPECS.values():
        line = inspect.getsourcelines(spec.function)[1]
        grouped[heads[max(head for head in heads if head < line)]].append(spec)
    return grouped


def _index() -> str:
    rows = ["| hook | runs in | since | results that are used |", "|---|---|---|---|"]
    for spec in SPECS.values():
        kept = "the strongest layer's" if spec.firstresult else "all" if not spec.observes else "none"
        rows.append(f"| [`{spec.name}`](#{spec.name}) | {runs_in(spec)} | {since(spec)} | {kept} |")
    return "\n".join(rows) + "\n"


def runs_in(spec: Spec) -> str:
    """Driver, trainer or engine, as the docstring says."""
    found = re.search(r"[Rr]uns in the ([^.,;]*)", " ".join(_doc(spec).split()))
    assert found, f"the docstring of {spec.name} does not say where it runs"
    return ", ".join(re.findall(r"driver|trainer|engine", found[1]))


def since(spec: Spec) -> str:
    """The contract version that brought it."""
    found = re.search(r"Since (\d+\.\d+)", _doc(spec))
    assert found, f"the docstring of {spec.name} does not say since when there is such a hook"
    return found[1]


def _doc(spec: Spec) -> str:
    return inspect.getdoc(spec.function) or ""


def _section(spec: Spec, calls: list[str]) -> str:
    facts = []
    if answer := getattr(core_hooks, spec.name, None):
        facts.append(f"Default: `{qualified_name(answer)}`.")
    if calls:
        facts.append(f"Called by {', '.join(f'`{call}`' for call in calls)}.")
    if spec.name in ENGINE_HOOKS:
        facts.append("An engine declares whether it calls this hook.")
    parts = [f"### {spec.name}", f"```python\n{signature(spec)}\n```", markdown(_doc(spec)), " ".join(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def signature(spec: Spec) -> str:
    """``def name(argument: Type, ...) -> Type: ...``, over several lines where it is long."""
    found = inspect.signature(spec.function)
    arguments = [f"{each.name}: {each.annotation}" for each in found.parameters.values()]
    together, end = ", ".join(arguments), f") -> {found.return_annotation}: ..."
    line = f"def {spec.name}({together}{end}"
    if len(line) <= WIDTH:
        return line
    if len(together) <= WIDTH - 4:
        return f"def {spec.name}(\n    {together}\n{end}"
    inner = "".join(f"    {argument},\n" for argument in arguments)
    return f"def {spec.name}(\n{inner}{end}"


def callers(source: Path) -> Mapping[str, list[str]]:
    """Hook -> qualified names of core's functions with a call ``hooks.<hook>(...)``."""
    found: dict[str, list[str]] = {}
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source).with_suffix("").parts
        if place[1] not in SILENT:
            for hook, inner in _calls(ast.parse(path.read_text(encoding="utf-8")), ()):
                found.setdefault(hook, []).append(".".join([*place, *inner]))
    return {hook: sorted(set(names)) for hook, names in found.items()}


def _calls(node: ast.AST, scope: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(hook, names of the enclosing class and function) of every call below a node."""
    for child in ast.iter_child_nodes(node):
        inner = (*scope, child.name) if isinstance(child, ast.ClassDef | ast.FunctionDef) else scope
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            asked, hook = ast.unparse(child.func.value), child.func.attr
            if asked.endswith("hooks") and hook in SPECS:
                yield hook, inner
        yield from _calls(child, inner)


def markdown(text: str) -> str:
    """A docstring's reStructuredText as Markdown: roles, literals, and examples."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(text))
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"Example::\n\n((?:    .*\n?|\n)+)", _example, text).rstrip()


def _example(found: re.Match[str]) -> str:
    return f"Example:\n\n```python\n{textwrap.dedent(found[1]).strip()}\n```\n"
