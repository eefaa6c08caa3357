"""Options of Diffusion-DPO."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from omni_rl.objectives.forward_process import ForwardOptions, Levels


class OfflineDiffusionDPOConfig(ForwardOptions):
    """Options in the section ``algorithm`` with ``name: diffusion_dpo_offline``."""

    beta: PositiveFloat = Field(2000.0, description="b: scale of the implicit rewards")
    positive: NonNegativeFloat = Field(
        0.0, description="p: penalty if the preferred image becomes less likely than under the reference; 0: plain DPO"
    )
    levels: Levels = Field("logit_normal", description="noise levels: of the rollout's schedule, or drawn")
    reference_decay: float = Field(
        1.0, ge=0, le=1, description="d: ref <- d ref + (1 - d) policy after every iteration; 1: the initial model"
    )


class DiffusionDPOConfig(OfflineDiffusionDPOConfig):
    """Options in the section ``algorithm`` with ``name: diffusion_dpo``."""

    pairs_per_group: PositiveInt = Field(1, description="pairs per group: best and worst, second best and second worst")
