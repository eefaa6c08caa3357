"""``tracker: wandb``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from omni_rl_trackers.base import Tracker
from omni_rl_trackers.optional import optional


class WeightsAndBiases(Tracker):
    """A Weights & Biases run, with files in ``RUN/wandb``. A resumed run continues it with the same id.

    The x axis of charts is ``iteration``, so that repeated iterations of a resumed run are drawn at the same position.
    """

    class Config(BaseModel):
        """Options of ``tracker: {name: wandb, ...}``."""

        model_config = ConfigDict(extra="forbid")

        project: str = Field("omni-rl", description="project that the run appears in")
        entity: str | None = Field(None, description="user or team; null: your default one")
        mode: Literal["online", "offline", "disabled"] = Field(
            "online", description="offline: files only, for `wandb sync`"
        )
        images: NonNegativeInt = Field(16, description="images of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._wandb = optional("wandb", "wandb")
        self._id: str | None = None
        self._run: Any = None

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Create a run, or continue the one whose id is in the checkpoint."""
        self._run = self._wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=self.config.mode,
            dir=str(directory),
            name=directory.absolute().name,
            id=self._id,
            resume="allow" if self._id else None,
            config=dict(config),
            settings=self._wandb.Settings(console="off"),  # progress bars do not belong in a log
        )
        self._run.define_metric("*", step_metric="iteration")
        self._id = self._run.id

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._run.log({"iteration": step, **row})

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Log the images with their captions."""
        texts: Sequence[str | None] = captions or [None] * len(images)
        gallery = [self._wandb.Image(image, caption=text) for image, text in zip(images, texts, strict=True)]
        self._run.log({"iteration": step, name: gallery})

    def state(self) -> dict[str, Any]:
        """The id of the run."""
        return {"id": self._id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._id = state.get("id")

    def close(self, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None
