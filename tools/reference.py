"""Write the pages of the documentation that say what the code says: hooks, configuration, command line, migration.

python tools/reference.py         # write
python tools/reference.py --check   # exit 1 when one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from reference_pages import commands, configuration, hooks, migration
from written import ROOT, write_or_check

PAGES: Mapping[str, Callable[[Path], str]] = {
    "docs/reference/hooks.md": hooks.page,
    "docs/reference/config.md": configuration.page,
    "docs/reference/cli.md": commands.page,
    "docs/migration.md": migration.page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` only compare them."""
    return write_or_check(arguments, "reference", {ROOT / name: page(ROOT) for name, page in PAGES.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
