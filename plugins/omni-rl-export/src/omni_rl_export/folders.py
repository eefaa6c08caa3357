"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni_rl.storage.durable import sync


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill. When the context ends, the folder is synced and renamed to ``final``.

    An existing folder ``final`` is deleted only after that. If the context raises, the new folder is deleted. The next
    call removes what a killed process left.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        _exchange(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, final: Path) -> None:
    """Rename ``new`` to ``final``, and delete the folder that had this name before."""
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        os.replace(final, replaced)
    os.replace(new, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
