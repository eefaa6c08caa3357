"""Rewards by published scoring models: ``clip_score``, ``pickscore``, ``hps_v2``, ``aesthetic``, ``image_reward``.

Importing this loads no weights and no model code; a reward does that at its first call.
"""

from omni_rl_preference_rewards.rewards import Aesthetic, ClipScore, HPSv2, ImageReward, PickScore

__all__ = ["Aesthetic", "ClipScore", "HPSv2", "ImageReward", "PickScore"]
