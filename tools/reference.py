"""Write the pages of the documentation that say what the code says: hooks, configuration, command line, migration.

python tools/reference.py         # write
python tools/reference.py --check   # exit 1 when one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from reference_pages import commands, configuration, hooks, migration

ROOT = Path(__file__).resolve().parents[1]
PAGES: Mapping[str, Callable[[Path], str]] = {
    "docs/reference/hooks.md": hooks.page,
    "docs/reference/config.md": configuration.page,
    "docs/reference/cli.md": commands.page,
    "docs/migration.md": migration.page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` only compare them."""
    wanted = {ROOT / name: page(ROOT) for name, page in PAGES.items()}
    if arguments != ["--check"]:
        for path, text in wanted.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in old:
        print(f"{path.relative_to(ROOT)} is out of date; run: python tools/reference.py")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
