"""Options of Diffusion-DPO."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from omni_rl.objectives.forward_process import ForwardOptions, Levels


class OfflineDiffusionDPOConfig(ForwardOptions):
    """Options beside ``algorithm.name: diffusion_dpo_offline``."""

    beta: PositiveFloat = Field(2000.0, description="b: how sharply errors are told apart")
    positive: NonNegativeFloat = Field(
        0.0, description="p: weight of the preferred picture's loss of likelihood; 0 is plain DPO"
    )
    levels: Levels = Field("logit_normal", description="noise levels: the rollout's, or uniform or logit-normal draws")
    reference_decay: float = Field(
        1.0, ge=0, le=1, description="d: how slowly the reference follows the policy; 1: it stays the initial model"
    )


class DiffusionDPOConfig(OfflineDiffusionDPOConfig):
    """Options beside ``algorithm.name: diffusion_dpo``."""

    pairs_per_group: PositiveInt = Field(1, description="pairs of a group: best and worst, second best and worst, ...")
