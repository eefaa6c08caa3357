"""Options of DiffusionNFT, and the decay of its old policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from omni_rl.objectives.advantages import AdvantageOptions
from omni_rl.objectives.forward_process import ForwardOptions


class DiffusionNFTConfig(AdvantageOptions, ForwardOptions):
    """Options in the section ``algorithm`` with ``name: diffusion_nft``; ``advantage_clip`` is M."""

    advantage_clip: PositiveFloat = Field(5.0, description="M: advantages are clipped to [-M, M]")
    beta: PositiveFloat = Field(0.1, description="b: distance of v+ and v- from the old policy's velocity")
    reference_weight: Annotated[float, Field(ge=0)] = Field(
        1e-4, description="k: weight of the distance to the reference"
    )
    decay: Literal["copy", "linear_to_0_5", "delayed_linear_to_0_999"] = Field(
        "linear_to_0_5", description="decay d of the old policy: old <- d old + (1 - d) policy"
    )
    mode: Literal["all", "positive_only", "negative_only", "one_only", "binary"] = Field(
        "all", description="use all advantages, those of one sign, 1 for positive ones, or only the sign of each"
    )


def decay_after(iterations: int, schedule: str) -> float:
    """The decay d after this number of completed iterations."""
    if schedule == "linear_to_0_5":
        return min(0.001 * iterations, 0.5)
    if schedule == "delayed_linear_to_0_999":
        return min(0.0075 * max(iterations - 75, 0), 0.999)
    return 0.0
