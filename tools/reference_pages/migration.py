"""docs/migration.md: where the names of contract 1 are in contract 2."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import omni_rl
from omni_rl.plugins.moved import moved

HEAD = """# From contract 1 to contract 2

Written by `python tools/reference.py` from `core/src/omni_rl/plugins/moved.json`.

omni-rl's modules moved into rooms with an order of imports, and plugins import a public surface alone:

| import | for |
|---|---|
| `omni_rl` | `hookimpl`; `train`, `resume`, `check` |
| `omni_rl.errors` | errors with a hint |
| `omni_rl.contracts` | what hooks, engines, rewards receive and return |
| `omni_rl.objectives` | advantages, windows, policy gradient, forward process |
| `omni_rl.schedulers` | the SDE steps, and randomness by name |
| `omni_rl.authoring.model`, `.engine`, `.data`, `.reward`, `.tracker` | helpers for one kind of plugin |
| `omni_rl_testing` | contract suites; `pip install omni-rl-testing` |

Names are exported by the packages too: `from omni_rl.contracts import LoadedModel, Streams`.

To move a plugin:

1. Change the imports by the table below. Loading a plugin that was written for contract 1 lists those that it has.
2. Compare your hooks with [their signatures](reference/hooks.md); each says since when.
3. Set the contract in `pyproject.toml`, under `[project.entry-points."omni_rl.contract"]`, to `2`.
4. Run the suite: `omni-rl conformance your-package`.
"""

PACKAGES = ("omni_rl.authoring.", "omni_rl.contracts.", "omni_rl.objectives.", "omni_rl.schedulers.", "omni_rl_testing")
SURFACE = """
## What plugins import

A module's row holds for every name in it that has no row of its own.
"""
INSIDE = """
## Inside core, and other packages

Plugins import none of these any more; they are listed for whoever reads or patches core. `omni_rl_export`,
`omni_rl_trackers` and `omni_rl_geneval` are packages of their own (`pip install omni-rl-export`, ...).
"""


def page(root: Path) -> str:
    """The page."""
    del root
    rows = sorted(moved().items())
    public = [row for row in rows if _is_public(row[1])]
    inside = [row for row in rows if row not in public]
    return "\n".join([HEAD, SURFACE.strip(), "", _table(public), INSIDE.strip(), "", _table(inside)])


def _is_public(new: str | None) -> bool:
    return new is not None and (new.startswith(PACKAGES) or new in {f"omni_rl.{name}" for name in dir(omni_rl)})


def _table(rows: Iterable[tuple[str, str | None]]) -> str:
    lines = [f"| `{old}` | {f'`{new}`' if new else 'gone'} |" for old, new in rows]
    return "\n".join(["| contract 1 | contract 2 |", "|---|---|", *lines, ""])
