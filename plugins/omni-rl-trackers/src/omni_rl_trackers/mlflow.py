"""``tracker: mlflow``."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from omni_rl.errors import PluginError
from omni_rl.reporting.image_grids import grid
from omni_rl_trackers.base import Tracker
from omni_rl_trackers.optional import optional

URI = "MLFLOW_TRACKING_URI"
HINT = (
    "the tracker's option `tracking_uri` names the store, e.g. sqlite:///mlflow.db or http://localhost:5000; "
    "a resumed run needs the store in which it was started"
)
PARAMS_AT_ONCE = 100  # the limit of MLflow's servers


class MLflow(Tracker):
    """An MLflow run. A resumed run continues it.

    The step is the iteration; if a resumed run logs an iteration again, MLflow shows the later values. The
    configuration is logged as parameters and as the artifact ``config.yaml``. MLflow does not allow parameters to
    change: for a resumed run they are the values at its start, and ``config.yaml`` has the newest values.
    """

    class Config(BaseModel):
        """Options of ``tracker: {name: mlflow, ...}``."""

        model_config = ConfigDict(extra="forbid")

        experiment: str = Field("omni-rl", description="experiment that the run appears in; created if it is missing")
        tracking_uri: str | None = Field(
            None,
            description="server or database; null: the variable MLFLOW_TRACKING_URI, else `RUN/mlflow.db` with "
            "artifacts in `RUN/mlflow`",
        )
        images: NonNegativeInt = Field(16, description="images of each validation that are logged")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._mlflow = optional("mlflow", "mlflow")
        self._id: str | None = None
        self._client: Any = None

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Create an MLflow run, or continue the one whose id is in the checkpoint.

        Raises:
            PluginError: the store cannot be opened, or does not have the run of the checkpoint.
        """
        given = self.config.tracking_uri or os.environ.get(URI)
        here = directory.absolute()
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=given or f"sqlite:///{here / 'mlflow.db'}")
            self._begin(here.name, None if given else (here / "mlflow").as_uri(), config)
            self._client.log_text(self._id, yaml.safe_dump(dict(config), sort_keys=False), "config.yaml")
        except self._mlflow.exceptions.MlflowException as error:
            self._client = None
            raise PluginError(f"tracker 'mlflow' cannot track this run: {error}", HINT) from error

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        now = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        self._client.log_batch(self._id, metrics=[metric(_name(key), row[key], now, step) for key in row])

    def log_images(self, name: str, images: Sequence[np.ndarray], step: int, captions: Sequence[str] = ()) -> None:
        """Log one image, the grid of all images: MLflow's own images have no captions."""
        sheet = np.asarray(grid(images, captions, columns=min(8, len(images))))
        self._client.log_image(self._id, sheet, key=name, step=step)

    def state(self) -> dict[str, Any]:
        """The id of the MLflow run."""
        return {"mlflow": self._id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._id = state.get("mlflow")

    def close(self, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._client is not None:
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
            self._client = None

    def _begin(self, name: str, artifacts: str | None, config: Mapping[str, Any]) -> None:
        """Continue the run with the restored id, or create a run with its parameters."""
        if self._id is not None:
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(self._experiment(artifacts), run_name=name).info.run_id
        params = [self._mlflow.entities.Param(_name(key), value) for key, value in _flat(config)]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + PARAMS_AT_ONCE])

    def _experiment(self, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self.config.experiment, artifact_location=artifacts))


def _name(key: str) -> str:
    """A key with characters that MLflow accepts: letters, digits and ``_-. :/``."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values by dotted key; values that are not text are written as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
