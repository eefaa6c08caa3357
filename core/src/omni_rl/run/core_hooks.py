"""Core's defaults of the hooks: the weakest layer of every run."""

from __future__ import annotations

from tensordict import TensorDict

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import ExperienceSource
from omni_rl.contracts.requests import Window, all_steps
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.sampling import denoise
from omni_rl.training import policy
from omni_rl.universal import hooks as universal
from omni_rl.universal import media_encoding


@hookimpl
def sde_window(steps: int) -> Window:
    """All steps but the last."""
    return all_steps(steps)


@hookimpl
def traits() -> AlgorithmTraits:
    """The default traits."""
    return AlgorithmTraits()


@hookimpl
def experience_source(sampled: ExperienceSource) -> ExperienceSource:
    """Draw and score samples in every iteration."""
    return sampled


@hookimpl
def prepare_actor_batch(batch: TensorDict) -> TensorDict:
    """Return the batch unchanged."""
    return batch


tokenize = universal.tokenize
encode_prompt = universal.encode_prompt
prepare_condition = universal.prepare_condition
prepare_latents = universal.prepare_latents
set_timesteps = universal.set_timesteps
predict = universal.predict
encode_media = media_encoding.encode_media
decode_latents = universal.decode_latents

build_scheduler = denoise.build_scheduler
prepare_encode = denoise.prepare_encode
denoise_step = denoise.denoise_step
step_scheduler = denoise.step_scheduler
post_decode = denoise.post_decode
diffuse = denoise.diffuse

prepare_model_inputs = policy.prepare_model_inputs
forward_and_sample_previous_step = policy.forward_and_sample_previous_step
