"""The page about the configuration: every key of core's, and every option of this checkout's plugins."""

from __future__ import annotations

import inspect
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from omni_rl.contracts import schema
from omni_rl.plugins.discovery import KINDS

HEAD = """# Configuration

Written by `python tools/reference.py` from the models that validate a configuration. A key is written as on the command
line (`omni-rl train run.yaml train.lr=1e-4`); `[]` stands for an entry of a list. An unknown key is an error that gives
its line and the most similar key.

`omni-rl config run.yaml --explain` prints every effective value and its origin. Later layers override earlier ones:
core, the model plugin, the algorithm, the pair, a local plugin, the YAML file, an override.
"""
PLUGINS = """## Options of plugins

The options of a plugin are keys of the section that names the plugin. Model plugins have no options so far: arguments
of the pipeline are keys of `rollout.call`, and are checked against the signature of its `__call__`.
"""
COLUMNS = "| key | value | default | meaning |\n|---|---|---|---|"
REQUIRED = "*required*"
SECTIONS = {
    "models": "model",
    "algorithms": "algorithm",
    "engines": "rollout",
    "rewards": "reward[]",
    "datasets": "data",
    "backends": "train",
    "launchers": "launcher",
    "trackers": "tracker[]",
}
"""Entry-point kind -> the section in which its options stand."""

NAMING = {"engines": "engine", "datasets": "format", "backends": "backend"}
"""The key by which a kind is chosen, where it is not ``name``."""


class Offered(NamedTuple):
    """A plugin of this checkout, installed or not."""

    kind: str
    key: str
    distribution: str
    plugin: Any


def page(root: Path) -> str:
    """The whole file."""
    sections = {name: _section(field.annotation) for name, field in schema.Config.model_fields.items()}
    parts = [HEAD, f"{COLUMNS}\n" + "\n".join(rows(schema.Config, "", within=False)) + "\n"]
    for name, model in sections.items():
        if model is not None:
            prefix = f"{name}[]" if model in (schema.RewardEntry, schema.Tracker) else name
            parts.append(f"## {name}\n\n{_summary(model)}\n\n{COLUMNS}\n" + "\n".join(rows(model, prefix)) + "\n")
    parts.append(PLUGINS)
    for offered in plugins(root):
        if model := getattr(offered.plugin, "Config", None):
            parts.append(_options(offered, model))
    return "\n".join(parts)


def plugins(root: Path) -> Iterator[Offered]:
    """What the packages of the checkout offer in sections of the configuration, by kind and key."""
    found = []
    for path in [root / "core/pyproject.toml", *root.glob("plugins/*/pyproject.toml")]:
        sys.path.append(str(path.parent / "src"))  # one that is not installed here is described all the same
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for kind in SECTIONS:
            entries: Mapping[str, str] = project.get("entry-points", {}).get(f"omni_rl.{kind}", {})
            found += [(kind, key, project["name"], target) for key, target in entries.items()]
    for kind, key, distribution, target in sorted(found, key=lambda each: ([*SECTIONS].index(each[0]), each[1])):
        yield Offered(kind, key, distribution, EntryPoint(key, target, f"omni_rl.{kind}").load())


def _options(offered: Offered, model: type[BaseModel]) -> str:
    naming = NAMING.get(offered.kind, "name")
    section = SECTIONS[offered.kind]
    chosen = f"`{section}.{naming}: {offered.key}`, of `{offered.distribution}`."
    lines = list(rows(model, section))
    options = "\n".join([COLUMNS, *lines]) if lines else "No options."
    return f"### {KINDS[offered.kind].word} {offered.key}\n\n{chosen} {_summary(offered.plugin)}\n\n{options}\n"


def _summary(described: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    text = (inspect.getdoc(described) or "").partition("\n\n")[0]
    return " ".join(text.split()).replace("``", "`")


def rows(model: type[BaseModel], prefix: str, within: bool = True) -> Iterator[str]:
    """A line for each key, and for the keys of the sections in it that have no heading of their own."""
    properties = model.model_json_schema(mode="validation")["properties"]
    own = {_section(field.annotation) for field in schema.Config.model_fields.values()}
    for name, field in model.model_fields.items():
        key, inner = f"{prefix}.{name}".lstrip("."), _section(field.annotation)
        default = REQUIRED if field.is_required() else _default(field.get_default(call_default_factory=True))
        cells = [f"`{key}`", words(properties[field.alias or name]), default, field.description or ""]
        yield f"| {' | '.join(cells[:3])} | {escaped(cells[3])} |"
        if inner is not None and inner not in own and within:
            yield from rows(inner, key)


def escaped(text: str) -> str:
    """Plain words as Markdown."""
    return text.replace("<", "&lt;").replace("__", r"\_\_").replace("|", r"\|")


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, of an optional one, or of the entries of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value, default=str)}`"


def words(value: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: ``whole number > 0, or null``."""
    if "anyOf" in value:
        return ", or ".join(words(option) for option in value["anyOf"])
    if "enum" in value or "const" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    if "$ref" in value or "allOf" in value:
        return "section"
    if value.get("type") == "array":
        return _list(value)
    kind = "path" if value.get("format") == "path" else str(value["type"])
    limits = [f"{sign} {value[name]:g}" for name, sign in _LIMITS.items() if name in value]
    return " ".join([_WORDS[kind], " and ".join(limits)]).strip()


_LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "path": "path",
    "null": "null",
    "object": "mapping",
}


def _list(value: Mapping[str, Any]) -> str:
    if "prefixItems" in value:
        return f"[{', '.join(words(each) for each in value['prefixItems'])}]"
    if "$ref" in value["items"]:
        return "list of sections, or one"
    return f"list of {words(value['items'])}"
