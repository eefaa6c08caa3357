"""The weights of the last sync, on disk: a restarted worker gets them again without asking the trainer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file

from omni_rl.authoring.engine import Portion


class SentWeights:
    """Keeps the portions of one sync, as safetensors files in a temporary folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def keeping(self, portions: Iterable[Portion]) -> Iterator[Portion]:
        """Hand every portion on, and keep it in place of what was kept before."""
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="omni-rl-weights-"))
        for number, portion in enumerate(portions):
            save_file({name: value.contiguous() for name, value in portion.items()}, self._folder / f"{number:06d}")
            yield portion

    def portions(self) -> Iterator[Portion]:
        """What was kept, in order; nothing before the first sync."""
        for file in sorted(self._folder.iterdir()) if self._folder else []:
            yield load_file(file)

    def close(self) -> None:
        """Delete what was kept."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
