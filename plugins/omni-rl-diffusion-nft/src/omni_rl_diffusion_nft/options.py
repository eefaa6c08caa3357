"""Options of DiffusionNFT, and how its old policy follows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from omni_rl.objectives.advantages import AdvantageOptions
from omni_rl.objectives.forward_process import ForwardOptions


class DiffusionNFTConfig(AdvantageOptions, ForwardOptions):
    """Options beside ``algorithm.name: diffusion_nft``; ``advantage_clip`` is M."""

    advantage_clip: PositiveFloat = Field(5.0, description="M: advantages are clipped to [-M, M]")
    beta: PositiveFloat = Field(0.1, description="b: how far v+ and v- stand from the old policy")
    reference_weight: Annotated[float, Field(ge=0)] = Field(
        1e-4, description="k: weight of the distance to the reference"
    )
    decay: Literal["copy", "linear_to_0_5", "delayed_linear_to_0_999"] = Field(
        "linear_to_0_5", description="how slowly the old policy follows"
    )
    mode: Literal["all", "positive_only", "negative_only", "one_only", "binary"] = Field(
        "all", description="what of an advantage counts: all, one sign only, 1 where it is positive, or its sign"
    )


def decay_after(iterations: int, schedule: str) -> float:
    """d after so many completed iterations."""
    if schedule == "linear_to_0_5":
        return min(0.001 * iterations, 0.5)
    if schedule == "delayed_linear_to_0_999":
        return min(0.0075 * max(iterations - 75, 0), 0.999)
    return 0.0
