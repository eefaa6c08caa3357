"""Stores the weights of the last sync on disk, so that a restarted worker gets them without the trainer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file

from omni_rl.authoring.engine import Portion


class SentWeights:
    """Stores the portions of one sync as safetensors files in a temporary folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def keeping(self, portions: Iterable[Portion]) -> Iterator[Portion]:
        """Yield every portion unchanged and store it; the portions of the previous sync are deleted."""
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="omni-rl-weights-"))
        for number, portion in enumerate(portions):
            save_file({name: value.contiguous() for name, value in portion.items()}, self._folder / f"{number:06d}")
            yield portion

    def portions(self) -> Iterator[Portion]:
        """Yield the stored portions in order; none before the first sync."""
        for file in sorted(self._folder.iterdir()) if self._folder else []:
            yield load_file(file)

    def close(self) -> None:
        """Delete the stored portions."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
