"""Files that tools write from code and metadata: write them, or compare them with what would be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_or_check(arguments: Sequence[str], tool: str, files: Mapping[Path, str]) -> int:
    """Write the text of each file. With the only argument ``--check``, compare instead and name files that differ.

    Returns:
        The exit status: 1 if a file differs, otherwise 0.
    """
    if list(arguments) != ["--check"]:
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    old = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in old:
        print(f"{path.relative_to(ROOT)} is out of date; run: python tools/{tool}.py")
    return 1 if old else 0
