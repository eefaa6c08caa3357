"""Checks that plain diffusers draws the run's validation images from an export: runs ``reproduce.py`` in its own
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from omni_rl.errors import ConfigError, RunError
from omni_rl.model.loading import pick_device
from omni_rl.reporting import artifacts
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.reporting.provenance import device_name
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_export.source import Source

LIMIT = 1
"""Largest allowed difference in levels of 0 to 255: fp32 sums in another order may change rounding by one level."""

TELLING = 1.0
"""If rounding is large, images are compared only if training changed them by at least this on average (0 to 255)."""

_ANYWAY = "to write the export anyway, use --no-verify"


@dataclass(frozen=True)
class Verified:
    """The result of the comparison, in levels of 0 to 255.

    Attributes:
        pictures: number of compared images.
        largest, mean: absolute differences between the images of plain diffusers and those of the run.
        limit: largest allowed value of ``largest``; None if rounding alone may exceed it (bf16, another engine or
            device).
        training: mean absolute difference between the run's images before training and the compared images.
    """

    pictures: int
    largest: int
    mean: float
    limit: int | None
    training: float

    def __str__(self) -> str:
        found = f"{self.pictures} images by plain diffusers differ from the run's by at most {self.largest}/255"
        return f"{found}, {self.mean:.3f}/255 on average (training changed them by {self.training:.3f}/255)"


def verify(folder: Path, base: Path, source: Source, exhibits: Sequence[Exhibit], dtype: str) -> Verified:
    """Load ``folder``, with weights in ``dtype``, in plain diffusers, and compare images.

    Raises:
        RunError: plain diffusers does not draw the run's images, or fails.
    """
    config, device = source.resolved.config, _device(source.resolved.config.device)
    arguments = ["--json", "--base", str(base), "--device", str(device)]
    arguments += ["--offload"] * config.train.offload
    command = [sys.executable, "-P", str(folder / "reproduce.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"plain diffusers cannot draw with this export: {why}\n  {_ANYWAY}")
    measured = json.loads(done.stdout.splitlines()[-1])
    limit = LIMIT if dtype == "float32" and _alike(source, device) else None
    found = Verified(**measured, limit=limit, training=_moved(source.directory, exhibits))
    _judge(found)
    return found


def _device(wanted: str) -> torch.device:
    """The device of the run, or the CPU if it is not available."""
    try:
        return pick_device(wanted)
    except ConfigError:
        return torch.device("cpu")


def _alike(source: Source, device: torch.device) -> bool:
    """Whether the run sampled in the same way as diffusers does here, except for the order of fp32 sums."""
    config = source.resolved.config
    same_device = source.origin["device"] == device_name(device)
    return config.precision == "fp32" and config.rollout.engine == "diffusers" and same_device


def _moved(directory: RunDirectory, exhibits: Sequence[Exhibit]) -> float:
    first, _ = artifacts.before(directory)
    gaps = [np.abs(e.image.astype(np.int16) - first[e.request.sample_id]).mean() for e in exhibits]
    return float(np.mean(gaps))


def _judge(found: Verified) -> None:
    if found.limit is not None and found.largest > found.limit:
        raise RunError(f"the export does not reproduce the run: {found}\n  {_ANYWAY}")
    if found.limit is None and found.training > TELLING and found.mean >= found.training:
        raise RunError(f"the export is not closer to the run than the untrained model: {found}\n  {_ANYWAY}")
