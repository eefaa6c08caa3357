"""What observers (the ``on_*`` hooks) receive about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_rl.contracts.schema import Config


@dataclass(frozen=True)
class State:
    """The progress of a run.

    Attributes:
        iteration: number of completed iterations.
        policy_version: number of completed weight syncs.
    """

    iteration: int = 0
    policy_version: int = 0


@dataclass(frozen=True)
class RunInfo:
    """Information about a run for observers; read-only.

    Attributes:
        directory: the run directory.
        config: the resolved configuration.
        architecture: the pipeline's class name.
        state: the progress at the time of the call.
    """

    directory: Path
    config: Config
    architecture: str
    state: State
