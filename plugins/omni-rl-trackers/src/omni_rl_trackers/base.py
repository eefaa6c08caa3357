"""The base of experiment trackers: observers that send a run's metrics and validation images elsewhere.

Packages offer trackers through the entry-point group ``omni_rl.trackers``. The step that a tracker is given is always
the number of completed iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.media import media_of
from omni_rl.contracts.types import Sample
from omni_rl.reporting.health import reward_figures
from omni_rl.reporting.image_grids import still

_VALIDATION = {"reward": "val/reward/mean", "reward_stderr": "val/reward/stderr"}


class Tracker(ABC):
    """A base for trackers: it turns the hooks of a run into calls of the methods below.

    A subclass has a pydantic ``Config`` with at least ``images``, the number of validation images to log.
    """

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Begin to track a run, or go on after :meth:`restore`.

        Args:
            directory: the run directory, for what the tracker writes to files.
            config: the resolved configuration, as JSON data.
        """

    @abstractmethod
    def log(self, row: Mapping[str, float], step: int) -> None:
        """Log metrics by name."""

    @abstractmethod
    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Log images, uint8 (H, W, 3); ``captions`` has one per image or is empty."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON data that a checkpoint keeps, so that a resumed run continues in the same place."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` returned; called before :meth:`open`.

        ``state`` is empty when the checkpoint was written without this tracker.
        """

    @abstractmethod
    def close(self, failed: bool = False) -> None:
        """Send what is outstanding. May be called more than once, and before :meth:`open`."""

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Open."""
        self.open(run.directory, run.config.model_dump(mode="json"))

    @hookimpl
    def on_iteration_end(self, row: Mapping[str, float]) -> None:
        """Log the row, without what :meth:`on_validation` has logged for this iteration."""
        known = ("iteration", *_VALIDATION.values())
        self.log({name: value for name, value in row.items() if name not in known}, int(row["iteration"]))

    @hookimpl
    def on_validation(self, iteration: int, samples: Sequence[Sample], rewards: torch.Tensor) -> None:
        """Log mean and standard error of the rewards, and the first ``images`` images."""
        figures = reward_figures(rewards.cpu().numpy())
        self.log({_VALIDATION[name]: value for name, value in figures.items()}, iteration)
        shown = list(islice(_images(samples), self.config.images))
        if shown:
            self.log_images("val/samples", [image for image, _ in shown], iteration, [prompt for _, prompt in shown])

    @hookimpl
    def on_run_end(self, error: BaseException | None) -> None:
        """Close."""
        self.close(failed=error is not None)


def _images(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, str]]:
    """Image (H, W, 3) uint8 and prompt of every sample that has one; a video's middle frame."""
    for sample in samples:
        media = {} if sample.trajectory is None else media_of(dict(sample.trajectory["media"].items()))
        for kind in ("image", "video"):
            if kind in media:
                yield still(media[kind].data), sample.request.prompt
