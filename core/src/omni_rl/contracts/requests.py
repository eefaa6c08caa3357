"""Requests from the driver to a rollout engine: one :class:`Request` per sample.

A request can be converted to JSON and back without changes, so the engine may be in another process.
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
"""An empty window: every step is an ODE step, and no log-prob is stored (forward-process algorithms, validation)."""


def all_steps(steps: int) -> Window:
    """A window of all steps but the last. The last step ends at sigma 0, where the transition has no density."""
    return Window(0, max(steps - 1, 0))


@dataclass(frozen=True)
class Sde:
    """The noise of the denoising steps inside the SDE window.

    Attributes:
        type: formula of the transition's mean and standard deviation (``omni_rl.schedulers.transition``).
        noise_level: eta, without unit, >= 0.
        log_prob: ``density``: Gaussian log density; ``squared_error``: ``-(x' - mean)^2``, without variance and
            constants, as other frameworks use for ``cps``.
    """

    type: SdeType = "sde"
    noise_level: float = 0.7
    log_prob: LogProbType = "density"


@dataclass(frozen=True)
class Request:
    """One sample to draw.

    Attributes:
        uid: number of the group, unique in the run; advantages are normalised over samples with equal ``uid``.
        sample_id: number of the sample, unique in the run.
        prompt, negative_prompt: text; ``negative_prompt`` None: the pipeline gets no negative prompt.
        metadata: the other columns of the prompt's row, e.g. targets for rewards.
        key: determines the noise of the denoising steps.
        initial_key: determines x_T; equal to ``key`` unless a group shares its initial noise.
        steps: number of denoising steps.
        window, sde: the steps in which noise is injected, and its formula and level.
        call: arguments for the pipeline's ``__call__`` (height, width, guidance, ...).
        media: pipeline argument -> file path, or a list of paths if the pipeline takes a list.
        policy_version: the policy version with which the sample must be drawn.
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
        """The request as JSON data."""
        return asdict(replace(self, metadata=dict(self.metadata), call=dict(self.call), media=dict(self.media)))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Request:
        """The inverse of :meth:`to_json`."""
        known = dict(data)
        for name, kind in (("key", NoiseKey), ("initial_key", NoiseKey), ("window", Window), ("sde", Sde)):
            known[name] = kind(**known[name])
        return Request(**known)
