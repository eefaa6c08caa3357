"""A resolved configuration as text: a table with the origin of each value, and YAML that reproduces the run."""

from __future__ import annotations

import json
from typing import Any

import yaml

from omni_rl.config.resolved import Resolved
from omni_rl.config.yaml_file import Dumper
from omni_rl.plugins.discovery import KINDS


def explain(resolved: Resolved) -> str:
    """One line per effective value with the layer that set it, for ``omni-rl config --explain``.

    A second table lists the distribution of every plugin.
    """
    rows = [(key, shown(origin.value), origin.layer) for key, origin in resolved.origins.items()]
    adapter = resolved.model.source if resolved.model else "universal adapter"
    providers = [("architecture", resolved.architecture, adapter)]
    providers += [(KINDS[each.kind].word, each.key, each.source) for each in resolved.chosen() if each.kind != "models"]
    providers += [("local file", "", str(module.__file__)) for module in resolved.local]
    return f"{_table(rows)}\n\n{_table(providers)}"


def shown(value: Any) -> str:
    """``value`` as one line of YAML."""
    return json.dumps(value, ensure_ascii=False)


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Three aligned columns; on a line whose value is too long, the origin stands further right."""
    first = max(len(key) for key, _, _ in rows)
    second = min(max(len(value) for _, value, _ in rows), 40)
    return "\n".join(f"{key:<{first}}  {value:<{second}}  {origin}".rstrip() for key, value, origin in rows)


def dump(resolved: Resolved) -> str:
    """All effective values as YAML (``config.resolved.yaml``); resolving this file again gives the same values."""
    values = resolved.config.model_dump(mode="json")
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
