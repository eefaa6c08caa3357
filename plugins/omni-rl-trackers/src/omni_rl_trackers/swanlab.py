"""``tracker: swanlab``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from omni_rl_trackers.base import Tracker
from omni_rl_trackers.optional import optional

NO_LIVE_OUTPUT = {"terminal": {"proxy_type": "none"}}  # progress bars do not belong in a log


class SwanLab(Tracker):
    """A SwanLab run, with files in ``RUN/swanlab``. A resumed run continues it with the same id.

    If a resumed run logs an iteration again, SwanLab keeps the first values.
    """

    class Config(BaseModel):
        """Options of ``tracker: {name: swanlab, ...}``."""

        model_config = ConfigDict(extra="forbid")

        project: str = Field("omni-rl", description="project that the run appears in")
        workspace: str | None = Field(None, description="user or organisation; null: your default one")
        mode: Literal["online", "local", "offline", "disabled"] = Field(
            "online",
            description="offline: files only, for `swanlab sync`; local: files for `swanlab watch`, needs "
            "swanlab[dashboard]",
        )
        images: NonNegativeInt = Field(16, description="images of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._swanlab = optional("swanlab", "swanlab")
        if config.mode == "local":  # without this package SwanLab only prints an error and stores nothing
            optional("swanboard", "swanlab", "swanlab[dashboard]")
        self._id: str | None = None
        self._run: Any = None

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Create a run, or continue the one whose id is in the checkpoint."""
        with _own_interrupt():
            self._run = self._swanlab.init(
                project=self.config.project,
                workspace=self.config.workspace,
                mode=self.config.mode,
                log_dir=str(directory / "swanlab"),
                name=directory.absolute().name,
                id=self._id,
                resume="allow" if self._id else None,
                config=dict(config),
                settings=self._swanlab.Settings(**NO_LIVE_OUTPUT),
            )
        self._id = self._run.id

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(row), step=step)

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Log the images with their captions."""
        texts: Sequence[str | None] = captions or [None] * len(images)
        gallery = [self._swanlab.Image(image, caption=text) for image, text in zip(images, texts, strict=True)]
        self._run.log({name: gallery}, step=step)

    def state(self) -> dict[str, Any]:
        """The id of the run."""
        return {"swanlab": self._id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._id = state.get("swanlab")

    def close(self, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._run is not None:
            with _own_interrupt():
                self._run.finish(**({"state": "crashed", "error": "the run failed"} if failed else {}))
            self._run = None


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep omni-rl's handling of Ctrl-C (finish the iteration and save): SwanLab's would end its run at once."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # signal handlers can only be set in the main thread
            signal.signal(signal.SIGINT, handler)
