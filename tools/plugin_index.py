"""Write the index "which pip package offers what" that core's error messages use, from the plugins' own metadata.

python tools/plugin_index.py           # write
python tools/plugin_index.py --check   # exit 1 when it is out of date
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from written import ROOT, write_or_check

INDEX = ROOT / "core/src/omni_rl/plugins/known_plugins.json"
NOT_OFFERS = {"omni_rl.contract", "omni_rl.conformance"}

Index = dict[str, dict[str, list[str]]]


def index(root: Path = ROOT) -> Index:
    """{kind: {key: [distribution]}} over ``plugins/*/pyproject.toml``, sorted."""
    found: Index = {}
    for path in sorted(root.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for group, entries in project.get("entry-points", {}).items():
            if group.startswith("omni_rl.") and group not in NOT_OFFERS:
                for key in entries:
                    found.setdefault(group.removeprefix("omni_rl."), {}).setdefault(key, []).append(project["name"])
    return {kind: dict(sorted(keys.items())) for kind, keys in sorted(found.items())}


def text(content: Index) -> str:
    """The file's content."""
    return json.dumps(content, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the index, or with ``--check`` only compare it."""
    return write_or_check(arguments, "plugin_index", {INDEX: text(index())})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
