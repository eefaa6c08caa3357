"""For authors of model plugins: guidance, sizes, prompt limits, and functions of the universal adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.model.guidance import NEGATIVE, Velocity, classifier_free, negative, positive
    from omni_rl.model.limits import latent_frames, patches, refuse_cut
    from omni_rl.universal.batching import in_groups, take
    from omni_rl.universal.hooks import conditioning_from_media
    from omni_rl.universal.media_conditioning import encoder_answers, is_stand_in, latent_modes, standardised_latents

_MODULES = {
    "omni_rl.model.guidance": ("NEGATIVE", "Velocity", "classifier_free", "negative", "positive"),
    "omni_rl.model.limits": ("latent_frames", "patches", "refuse_cut"),
    "omni_rl.universal.batching": ("in_groups", "take"),
    "omni_rl.universal.hooks": ("conditioning_from_media",),
    "omni_rl.universal.media_conditioning": ("encoder_answers", "is_stand_in", "latent_modes", "standardised_latents"),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "NEGATIVE",
    "Velocity",
    "classifier_free",
    "conditioning_from_media",
    "encoder_answers",
    "in_groups",
    "is_stand_in",
    "latent_frames",
    "latent_modes",
    "negative",
    "patches",
    "positive",
    "refuse_cut",
    "standardised_latents",
    "take",
]
