"""What observers are told about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_rl.contracts.schema import Config


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        iteration: completed iterations.
        policy_version: completed weight syncs.
    """

    iteration: int = 0
    policy_version: int = 0


@dataclass(frozen=True)
class RunInfo:
    """A run as observers see it; read-only.

    Attributes:
        directory: the run directory.
        config: the resolved configuration.
        architecture: the pipeline's class name.
        state: at the moment of the call.
    """

    directory: Path
    config: Config
    architecture: str
    state: State
