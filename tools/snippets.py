"""Run every snippet of a page of the documentation, top to bottom, in an empty folder.

python tools/snippets.py docs/start.md README.md

* ``python``: executed, one namespace for the page.
* ``yaml``: resolved as a configuration, options of plugins included. What is not a whole configuration is laid over
  ``examples/quickstart.yaml``.
* ``console``: lines after ``$`` are run; if output is shown, it is compared (``...`` stands for anything).
* ``toml``, ``json``: parsed. ``text``: shown as it is.
* With ``title="name"`` a block is written as that file, and Python in it is not executed.

A comment in front of a block changes that, in view of whoever reads the source: ``<!-- not run: reason -->``, or
``<!-- with: key=value ... -->``, overrides that stand in for what is large, slow or not here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from snippet_runner.blocks import blocks_of
from snippet_runner.sandbox import Sandbox, SnippetError

ROOT = Path(__file__).resolve().parents[1]


def run(page: Path) -> int:
    """Run a page; returns how many of its blocks were run.

    Raises:
        SnippetError: a block fails, or shows what does not happen; says where.
    """
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(page, Path(folder), ROOT)
        os.chdir(folder)
        try:
            for block in blocks:
                sandbox.run(block)
        finally:
            os.chdir(home)
            sandbox.close()
    return sum(not block.skipped for block in blocks)


def main(pages: list[str]) -> int:
    """Run pages; 1 when one fails."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs a model hub
    os.environ["OMP_NUM_THREADS"] = "1"  # the models are too small for more
    for name in pages:
        try:
            print(f"{name}: {run(Path(name).resolve())} blocks")
        except SnippetError as error:
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
