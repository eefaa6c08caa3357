"""Write docs/compatibility.md: what every algorithm runs with, from what the plugins declare.

python tools/compatibility.py           # write
python tools/compatibility.py --check   # exit 1 when it is out of date
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import entry_points
from typing import get_args

from omni_rl.config.algorithm_traits import traits_of
from omni_rl.config.chosen import Chosen
from omni_rl.contracts.traits import Trained
from omni_rl.schedulers.types import SdeType
from written import ROOT, write_or_check

PAGE = ROOT / "docs/compatibility.md"

HEAD = """# What runs with what

Written by `python tools/compatibility.py` from the results of the hook `traits` with default options;
`omni-rl check` rejects all other combinations. Models are not in the table, because every algorithm runs with every
model (`tests/test_every_pair.py`). Algorithms on the forward process learn from finished samples, which are drawn
without SDE noise, so they do not depend on the SDE type (n/a).
"""


def keys(group: str) -> list[str]:
    """The keys that core and the plugins of this checkout offer under an entry-point group."""
    found: set[str] = set()
    for path in [ROOT / "core/pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        found |= project.get("entry-points", {}).get(f"omni_rl.{group}", {}).keys()
    return sorted(found)


def page() -> str:
    """The whole file."""
    transitions, trained = get_args(SdeType), get_args(Trained)
    engines, backends = keys("engines"), keys("backends")
    columns = [*transitions, *engines, *backends, *trained]
    lines = [HEAD, f"| algorithm | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name in keys("algorithms"):
        (entry,) = entry_points(group="omni_rl.algorithms", name=name)
        plugin = entry.load()
        options = plugin.Config() if hasattr(plugin, "Config") else None
        able = traits_of(Chosen("algorithms", name, plugin, name, options))
        cells = ["n/a" if not able.sde else _mark(kind in able.sde) for kind in transitions]
        cells += [_mark(able.engines is None or engine in able.engines) for engine in engines]
        cells += [_mark(able.backends is None or backend in able.backends) for backend in backends]
        cells += [_mark(kind in able.trained) for kind in trained]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(able: bool) -> str:
    return "yes" if able else "no"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` only compare it."""
    return write_or_check(arguments, "compatibility", {PAGE: page()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
