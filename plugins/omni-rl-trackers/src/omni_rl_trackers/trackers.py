"""Experiment trackers: observers of a run that send its figures and validation pictures elsewhere.

A tracker is a subclass of :class:`Tracker`, found through the entry-point group ``omni_rl.trackers``. The step is the
number of completed iterations throughout.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.media import media_of
from omni_rl.contracts.types import Sample
from omni_rl.errors import PluginError
from omni_rl.reporting import grid, reward_figures, still

if TYPE_CHECKING:
    from omni_rl.contracts.events import RunInfo

_VALIDATION = {"reward": "val/reward/mean", "reward_stderr": "val/reward/stderr"}


class Tracker(ABC):
    """A base for trackers: the hooks of a run, turned into calls of the methods below.

    A subclass has a pydantic ``Config`` with at least ``images``, the number of validation pictures to log, and opens
    what it writes to in ``on_run_start``.
    """

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def log(self, row: Mapping[str, float], step: int) -> None:
        """Figures by name."""

    @abstractmethod
    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Pictures, uint8 (H, W, 3); ``captions`` has one per picture or is empty."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON data that a checkpoint keeps, so that a resumed run continues in the same place."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`; called before the run starts again."""

    @abstractmethod
    def close(self, failed: bool = False) -> None:
        """Send what is outstanding. Idempotent."""

    @hookimpl
    def on_iteration_end(self, row: Mapping[str, float]) -> None:
        """Log the row, without what :meth:`on_validation` has logged for this iteration."""
        known = ("iteration", *_VALIDATION.values())
        self.log({name: value for name, value in row.items() if name not in known}, int(row["iteration"]))

    @hookimpl
    def on_validation(self, iteration: int, samples: Sequence[Sample], rewards: torch.Tensor) -> None:
        """Log mean and standard error of the rewards, and the first ``images`` pictures."""
        figures = reward_figures(rewards.cpu().numpy())
        self.log({_VALIDATION[name]: value for name, value in figures.items()}, iteration)
        shown = list(islice(_pictures(samples), self.config.images))
        if shown:
            self.log_images("val/samples", [image for image, _ in shown], iteration, [prompt for _, prompt in shown])

    @hookimpl
    def on_run_end(self, error: BaseException | None) -> None:
        """Close."""
        self.close(failed=error is not None)


class TensorBoard(Tracker):
    """Event files in ``RUN/tensorboard``; look at them with ``tensorboard --logdir runs``.

    A resumed run needs no state: its first step makes TensorBoard forget what an abandoned future had logged.
    """

    class Config(BaseModel):
        """Options of ``tracker: tensorboard``."""

        model_config = ConfigDict(extra="forbid")

        images: NonNegativeInt = Field(16, description="pictures of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._writers = _optional("torch.utils.tensorboard", "tensorboard")
        self._folder, self._text = "", ""
        self._writer: Any = None

    @hookimpl
    def on_run_start(self, run: RunInfo) -> None:
        """Note where to write. The writer is opened at the first step, which it needs to know."""
        self._folder = str(run.directory / "tensorboard")
        self._text = yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        writer = self._at(step)
        for name, value in row.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """One picture: the grid of all."""
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
            assert self._folder, "on_run_start comes first"
            self._writer = self._writers.SummaryWriter(self._folder, purge_step=step)
            self._writer.add_text("config", f"```yaml\n{self._text}```", step)
        return self._writer


class WeightsAndBiases(Tracker):
    """A Weights & Biases run, in ``RUN/wandb``. A resumed run continues under the same id.

    Charts are drawn over ``iteration``, so that what a resumed run logs again lies on top of what it had logged.
    """

    class Config(BaseModel):
        """Options of ``tracker: {name: wandb, ...}``."""

        model_config = ConfigDict(extra="forbid")

        project: str = Field("omni-rl", description="project that the run appears in")
        entity: str | None = Field(None, description="user or team; null: your default one")
        mode: Literal["online", "offline", "disabled"] = Field(
            "online", description="offline: files only, for `wandb sync`"
        )
        images: NonNegativeInt = Field(16, description="pictures of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._wandb = _optional("wandb", "wandb")
        self._id: str | None = None
        self._run: Any = None

    @hookimpl
    def on_run_start(self, run: RunInfo) -> None:
        """Open the run, or continue the one whose id a checkpoint kept."""
        self._run = self._wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=self.config.mode,
            dir=str(run.directory),
            name=run.directory.absolute().name,
            id=self._id,
            resume="allow" if self._id else None,
            config=run.config.model_dump(mode="json"),
            settings=self._wandb.Settings(console="off"),  # a live bar is no log
        )
        self._run.define_metric("*", step_metric="iteration")
        self._id = self._run.id

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._run.log({"iteration": step, **row})

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """A gallery."""
        texts: Sequence[str | None] = captions or [None] * len(images)
        gallery = [self._wandb.Image(image, caption=text) for image, text in zip(images, texts, strict=True)]
        self._run.log({"iteration": step, name: gallery})

    def state(self) -> dict[str, Any]:
        """The id of the run."""
        return {"id": self._id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._id = state["id"]

    def close(self, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None


def _pictures(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, str]]:
    """Picture (H, W, 3) uint8 and prompt of every sample that has one; a video's middle frame."""
    for sample in samples:
        media = {} if sample.trajectory is None else media_of(dict(sample.trajectory["media"].items()))
        for kind in ("image", "video"):
            if kind in media:
                yield still(media[kind].data), sample.request.prompt


def _optional(module: str, extra: str) -> Any:
    """Import a module that only this tracker needs; PluginError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"tracker {extra!r} needs a package that cannot be imported: {error}"
        raise PluginError(what, f"pip install 'omni-rl[{extra}]'") from error
