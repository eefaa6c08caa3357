"""Builds each tiny random pipeline at its first use, and stores it on disk.

They lie under ``$XDG_CACHE_HOME/omni-rl/tiny-random``, in a folder of their own for each set of versions that makes
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from omni_rl.errors import ModelError, did_you_mean

SOURCES = Path(__file__).with_name("pipelines")
VERSIONS = ("diffusers", "torch", "transformers")


def folder(name: str) -> Path:
    """The folder of one tiny pipeline, built at the first use. ``call.json`` in it has arguments that fit it.

    Raises:
        ModelError: no tiny pipeline has this name.
    """
    kept = _parent() / name
    if re.fullmatch(r"\w[\w.-]*", name) and kept.is_dir():
        return kept
    from omni_rl_tiny.pipelines import BUILDERS, VARIANTS, build

    known = [*BUILDERS, *VARIANTS]
    if name not in known:
        what = f"there is no tiny random pipeline '{name}'" if name else "tiny-random is no pipeline, but many"
        names = textwrap.fill(", ".join(known), 110, break_on_hyphens=False)
        raise ModelError(what + f".{did_you_mean(name, known)}", f"tiny-random/NAME, NAME one of\n{names}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as place:
        with _without_progress():
            made = build(name, Path(place, name))
        try:
            made.replace(kept)
        except OSError:
            if not kept.is_dir():  # otherwise another process was first
                raise
    return kept


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Writing takes less than a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _parent() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_by = hashlib.sha256(" ".join(version(name) for name in VERSIONS).encode())
    for source in sorted(SOURCES.glob("*.py")):
        made_by.update(source.read_bytes())
    return cache / "omni-rl" / "tiny-random" / made_by.hexdigest()[:12]
