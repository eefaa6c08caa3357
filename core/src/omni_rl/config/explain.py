"""A resolved configuration as text: with origins for people, and as the YAML that reproduces it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from omni_rl.config.resolved import Resolved
from omni_rl.config.yaml_file import Dumper
from omni_rl.plugins.discovery import KINDS


def explain(resolved: Resolved) -> str:
    """Every effective value with the layer that set it, for ``omni-rl config --explain``; one line each.

    Below them, who provides what the run needs.
    """
    rows = [(key, shown(origin.value), origin.layer) for key, origin in resolved.origins.items()]
    adapter = resolved.model.source if resolved.model else "universal adapter"
    providers = [("architecture", resolved.architecture, adapter)]
    providers += [(KINDS[each.kind].word, each.key, each.source) for each in resolved.chosen() if each.kind != "models"]
    providers += [("local file", "", str(module.__file__)) for module in resolved.local]
    return f"{_table(rows)}\n\n{_table(providers)}"


def shown(value: Any) -> str:
    """One line of YAML."""
    return json.dumps(value, ensure_ascii=False)


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Three columns; a value too long for its column pushes its own line's origin to the right."""
    first = max(len(key) for key, _, _ in rows)
    second = min(max(len(value) for _, value, _ in rows), 40)
    return "\n".join(f"{key:<{first}}  {value:<{second}}  {origin}".rstrip() for key, value, origin in rows)


def dump(resolved: Resolved) -> str:
    """The YAML of every effective value, as ``config.resolved.yaml``: resolving it again gives the same values."""
    values = resolved.config.model_dump(mode="json")
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
