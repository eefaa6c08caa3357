"""A key that does nothing must not exist: code outside the schema reads every key of the configuration."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import omni_rl
from omni_rl.config import fields
from omni_rl.contracts.schema import Config, PluginSection, SdeOptions

SOURCES = Path(omni_rl.__file__).parent
SCHEMA = SOURCES / "contracts/schema.py"

Section = type[BaseModel]
Key = tuple[Section, str]
Scope = dict[str, set[Section]]


def sections_in(annotation: object) -> set[Section]:
    """The sections in a type, also inside a list."""
    types = [each for option in fields.options(annotation) for each in (option, *getattr(option, "__args__", ()))]
    return {option for each in types for option in fields.options(each) if fields.is_model(option)}


def keys(section: Section = Config) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        yield section, name
        for inner in sections_in(field.annotation):
            yield from keys(inner)


KEYS = list(dict.fromkeys(keys()))
BY_NAME = {section.__name__: section for section, _ in KEYS}
UNDER = {name: inner for section, name in KEYS if (inner := sections_in(section.model_fields[name].annotation))}


def read_generically(section: Section, key: str) -> bool:
    """Keys that code reads without naming them.

    * ``name`` and ``plugin``: ``omni_rl.config.chosen`` reads them in every section that names a plugin.
    * ``rollout.sde``: ``omni_rl.sampling`` copies the whole section into ``omni_rl.contracts.requests.Sde``.
    """
    return (key in ("name", "plugin") and issubclass(section, PluginSection)) or section is SdeOptions


def sections_of(node: ast.expr, scope: Scope) -> set[Section]:
    """What an expression may be: by its annotation or assignment in ``scope``, or else by its own name."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = node.id if isinstance(node, ast.Name) else node.attr
        known = scope.get(ast.unparse(node))
        by_name = {Config} if name.lstrip("_") == "config" else UNDER.get(name, set())
        return known or (by_name if isinstance(node, ast.Attribute) or name == "config" else set())
    inner = [node.value] if isinstance(node, ast.Subscript) else getattr(node, "values", [])
    return {section for each in inner for section in sections_of(each, scope)}


def bindings(tree: ast.AST, scope: Scope) -> Iterator[tuple[str, set[Section]]]:
    """Names and attributes that hold a section: annotated, assigned, or taken from a list."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            names = ast.walk(node.annotation) if node.annotation else ()
            found = {BY_NAME[each.id] for each in names if isinstance(each, ast.Name) and each.id in BY_NAME}
            yield node.arg if isinstance(node, ast.arg) else ast.unparse(node.target), found
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            for one, other in zip(getattr(target, "elts", [target]), getattr(value, "elts", [value]), strict=False):
                yield ast.unparse(one), sections_of(other, scope)
        elif isinstance(node, (ast.For, ast.comprehension)):
            found = {each for part in ast.walk(node.iter) for each in sections_of(part, scope)}
            for name in getattr(node.target, "elts", [node.target]):
                yield ast.unparse(name), found


def read_by_attribute(tree: ast.AST, scope: Scope) -> Iterator[Key]:
    """``config.train.lr``, and ``train.lr`` where ``train`` is that section."""
    scope = dict(scope)
    for _ in range(2):  # the second pass follows names that are bound to other names
        scope.update((name, found) for name, found in bindings(tree, dict(scope)) if found)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from ((section, node.attr) for section in sections_of(node.value, scope))


def read_by_path(tree: ast.AST) -> Iterator[Key]:
    """``("model", "path")``: how ``omni_rl.config`` reads keys before it validates the configuration."""
    for node in ast.walk(tree):
        parts = getattr(node, "elts", None) or getattr(node, "args", None)
        section: Section | None = Config
        for part in parts if isinstance(parts, list) else ():
            key = getattr(part, "value", None)
            if section is not None and isinstance(key, str) and key in section.model_fields:
                yield section, key
                section = next(iter(sections_in(section.model_fields[key].annotation)), None)


def all_reads() -> Iterator[Key]:
    for path in SOURCES.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for part in tree.body if path != SCHEMA else []:
            attributes = {name: found for name, found in bindings(part, {}) if found and name.startswith("self.")}
            for scope in part.body if isinstance(part, ast.ClassDef) else [part]:
                yield from read_by_attribute(scope, attributes)
        if path.parent.name == "config":
            yield from read_by_path(tree)


READ = set(all_reads())


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_every_key_is_read_outside_the_schema(section: Section, key: str) -> None:
    assert (section, key) in READ or read_generically(section, key), f"{section.__name__}.{key}: use it or remove it"


def test_reading_a_key_of_one_section_does_not_count_for_another() -> None:
    tree = ast.parse("def f(config):\n    train = config.train\n    return train.lr, config.rollout.batch_size")
    found = {(section.__name__, key) for section, key in read_by_attribute(tree, {})}
    assert found == {("Config", "train"), ("Config", "rollout"), ("Train", "lr"), ("Rollout", "batch_size")}
