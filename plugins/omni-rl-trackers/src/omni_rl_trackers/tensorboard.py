"""``tracker: tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from omni_rl.reporting.image_grids import grid
from omni_rl_trackers.base import Tracker
from omni_rl_trackers.optional import optional


class TensorBoard(Tracker):
    """Event files in ``RUN/tensorboard``; show them with ``tensorboard --logdir runs``.

    It has no state: at the first step of a resumed run, TensorBoard deletes what was logged for later steps.
    """

    class Config(BaseModel):
        """Options of ``tracker: tensorboard``."""

        model_config = ConfigDict(extra="forbid")

        images: NonNegativeInt = Field(16, description="images of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._writers = optional("torch.utils.tensorboard", "tensorboard")
        self._folder, self._text = "", ""
        self._writer: Any = None

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Store the folder. The writer is opened at the first step, because it needs the step's number."""
        self._folder = str(directory / "tensorboard")
        self._text = yaml.safe_dump(dict(config), sort_keys=False)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        writer = self._at(step)
        for name, value in row.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Log one image, the grid of all images."""
        sheet = np.asarray(grid(images, captions, columns=min(8, len(images))))
        self._at(step).add_image(name, sheet, step, dataformats="HWC")

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def close(self, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _at(self, step: int) -> Any:
        if self._writer is None:
            assert self._folder, "open comes first"
            self._writer = self._writers.SummaryWriter(self._folder, purge_step=step)
            self._writer.add_text("config", f"```yaml\n{self._text}```", step)
        return self._writer
