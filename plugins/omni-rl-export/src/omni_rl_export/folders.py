"""Folders that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni_rl.storage.durable import is_temporary, sync, temporary


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill. When the context ends, the folder is synced and renamed to ``final``.

    An existing folder ``final`` is deleted only after that. If the context raises, the new folder is deleted. The next
    call removes what a killed process left.
    """
    _sweep(final)
    new = temporary(final)
    new.mkdir(parents=True)
    try:
        yield new
        for path in [*new.rglob("*"), new]:
            sync(path)
        _exchange(new, final)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sweep(final: Path) -> None:
    """Remove what a killed process left; only hidden folders with a name that this module makes."""
    for left in final.parent.glob(f".*-{glob.escape(final.name)}"):
        if is_temporary(left) and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _exchange(new: Path, final: Path) -> None:
    """Rename ``new`` to ``final``, and delete the folder that had this name before."""
    replaced = temporary(final)
    if final.exists():
        os.replace(final, replaced)
    os.replace(new, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
