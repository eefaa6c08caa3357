"""What the driver asks a rollout engine for: one :class:`Request` per sample, and nothing else.

A request is plain data (JSON-able), so that it reaches an engine in any process unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from omni_rl.schedulers.types import LogProbType, NoiseKey, SdeType


@dataclass(frozen=True)
class Window:
    """The contiguous denoising steps ``start <= i < stop`` where noise is injected and log-probs are kept."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"an SDE window needs 0 <= start <= stop, not [{self.start}, {self.stop})")

    @property
    def size(self) -> int:
        """Number of steps in the window."""
        return self.stop - self.start

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.stop


NO_STEPS = Window(0, 0)
"""An empty window: every step is ODE, no log-prob is kept (forward-process algorithms, validation)."""


def all_steps(steps: int) -> Window:
    """Every step but the last, whose target sigma is 0 and whose density is degenerate."""
    return Window(0, max(steps - 1, 0))


@dataclass(frozen=True)
class Sde:
    """How noise enters the steps of the window.

    Attributes:
        type: the family of the transition (``omni_rl.schedulers.transition``).
        noise_level: eta, dimensionless, >= 0.
        log_prob: ``density`` is the true Gaussian log density; ``squared_error`` is the peers' convention for
            ``cps``, ``-(x' - mean)^2`` without variance and constants.
    """

    type: SdeType = "sde"
    noise_level: float = 0.7
    log_prob: LogProbType = "density"


@dataclass(frozen=True)
class Request:
    """One sample to draw.

    Attributes:
        uid: the group's identity within the run; advantages are normalised over equal ``uid``.
        sample_id: the sample's identity within the run.
        prompt, negative_prompt: text; ``negative_prompt`` None means that none was given.
        metadata: the other columns of the prompt's row (reward targets and the like).
        key: names the random draws.
        initial_key: names the draw of x_T; equal to ``key`` unless a group shares its initial noise.
        steps: number of denoising steps.
        window, sde: where and how noise is injected.
        call: arguments for the pipeline's ``__call__`` (height, width, guidance, ...).
        media: files for further arguments of ``__call__``: one path, or a list where the pipeline takes a list.
        policy_version: completed weight syncs this sample must be drawn with.
    """

    uid: int
    sample_id: int
    prompt: str
    key: NoiseKey
    initial_key: NoiseKey
    steps: int
    window: Window = NO_STEPS
    sde: Sde = field(default_factory=Sde)
    negative_prompt: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, str | list[str]] = field(default_factory=dict)
    policy_version: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data for another process."""
        return asdict(replace(self, metadata=dict(self.metadata), call=dict(self.call), media=dict(self.media)))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Request:
        """The inverse of :meth:`to_json`."""
        known = dict(data)
        for name, kind in (("key", NoiseKey), ("initial_key", NoiseKey), ("window", Window), ("sde", Sde)):
            known[name] = kind(**known[name])
        return Request(**known)
