"""Write docs/images/layers.svg: the rooms of core, from the import law in pyproject.toml and each room's docstring.

python tools/layers.py           # write
python tools/layers.py --check   # exit 1 when it is out of date
"""

from __future__ import annotations

import ast
import html
import sys
import textwrap
import tomllib
from collections.abc import Iterator

from written import ROOT, write_or_check

IMAGE = ROOT / "docs/images/layers.svg"
SOURCES = ROOT / "core/src/omni_rl"

WIDTH, MARGIN, GAP = 860, 20, 12  # pixels
LINE, CHARACTER = 15, 6.2  # pixels: height of a line of text, width of an average character at 12 px

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#1b1f3b"
     font-size="12">
  <title>The rooms of omni_rl. A room imports only from rooms below it.</title>
  <rect width="{width}" height="{height}" rx="8" fill="#fafbff"/>
"""
ROOM = '  <rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{height}" rx="6" fill="#fff" stroke="#3f51b5"/>\n'
NAME = '  <text x="{x:.0f}" y="{y}" font-weight="bold" font-size="14">{text}</text>\n'
TEXT = '  <text x="{x:.0f}" y="{y}">{text}</text>\n'


def law() -> list[list[str]]:
    """The rooms of each layer, from the highest layer to the lowest."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def purpose(room: str) -> str:
    """The first sentence of the room's docstring."""
    folder = SOURCES / room
    module = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".").replace("`", "")


def picture() -> str:
    """The whole image."""
    y = MARGIN
    parts: list[str] = []
    for rooms in law():
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        texts = [textwrap.wrap(purpose(room), int((width - 2 * GAP) / CHARACTER)) for room in rooms]
        height = LINE * (max(map(len, texts)) + 2)
        for column, (room, text) in enumerate(zip(rooms, texts, strict=True)):
            parts += _box(room, text, MARGIN + column * (width + GAP), y, width, height)
        y += height + GAP
    return HEAD.format(width=WIDTH, height=y - GAP + MARGIN) + "".join(parts) + "</svg>\n"


def _box(room: str, text: list[str], x: float, y: int, width: float, height: int) -> Iterator[str]:
    yield ROOM.format(x=x, y=y, width=width, height=height)
    yield NAME.format(x=x + GAP, y=y + LINE + 4, text=room)
    for number, line in enumerate(text):
        yield TEXT.format(x=x + GAP, y=y + LINE * (number + 2) + 6, text=html.escape(line, quote=False))


def main(arguments: list[str]) -> int:
    """Write the image, or with ``--check`` only compare it."""
    return write_or_check(arguments, "layers", {IMAGE: picture()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
