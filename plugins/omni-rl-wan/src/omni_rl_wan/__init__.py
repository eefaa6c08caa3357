"""Wan 2.1 and 2.2, text to video (``WanPipeline``): the velocity for rollout and training.

It follows ``diffusers.WanPipeline``, and the tests compare it with that pipeline. Latents are (B, C, F, h, w). Wan 2.2
has two experts: ``transformer`` for timesteps above ``boundary_ratio``, ``transformer_2`` below; the rows of one batch
may use different experts. Core's defaults take schedule, embeddings and decoding from the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from omni_rl import hookimpl
from omni_rl.authoring.model import Velocity, classifier_free, in_groups, latent_frames, patches, refuse_cut, take
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors

HONOURED = {"height", "width", "num_frames", "guidance_scale", "guidance_scale_2", "max_sequence_length"}
"""If the call has any other argument, the velocity is computed by the pipeline itself."""

IMAGE_EMBEDS = "image_embeds"
"""Key of the CLIP embeddings of the conditioning frames in the conditioning of :func:`guided_velocity`."""

NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, "
    "overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly "
    "drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy "
    "background, three legs, many people in the background, walking backwards"
)
"""Negative prompt of the model card of Wan2.1-T2V-14B-Diffusers."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Size, steps, guidance and negative prompt of the model card; LoRA on the projections of both attentions and the
    MLP.
    """
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    call = {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0, "negative_prompt": NEGATIVE_PROMPT}
    return {"rollout": {"call": call}, "validation": {"steps": 50}, "model": {"lora": {"targets": targets}}}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that would be cut; otherwise the pipeline encodes it.

    Raises:
        DataError: a prompt is longer than the text encoder's limit.
    """
    texts = [prompt_clean(text) for text in (*prompts, *(negative_prompts or ()))]
    ids, limit = model.pipe.tokenizer(texts, verbose=False).input_ids, model.argument(call, "max_sequence_length")
    refuse_cut(texts, ids, limit, ", or set rollout.call.max_sequence_length")


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape (C, F, h, w).

    Raises:
        ConfigError: the pipeline would round the size or the number of frames.
    """
    return {"x": latent_shape(model, call)}


def latent_shape(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Shape (C, F, h, w) of the autoencoder's latents.

    Raises:
        ConfigError: the pipeline would round the size or the number of frames.
    """
    pipe, patch = model.pipe, (model.pipe.transformer or model.pipe.transformer_2).config.patch_size
    frames = latent_frames(model.argument(call, "num_frames"), pipe.vae_scale_factor_temporal)
    size = {name: model.argument(call, name) for name in ("height", "width")}
    rows, columns = patches(size, default=0, patch=pipe.vae_scale_factor_spatial * patch[1])
    return pipe.vae.config.z_dim, frames, rows * patch[1], columns * patch[2]


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with classifier-free guidance; each row uses the expert for its timestep, and that expert's guidance
    scale.
    """
    if call.keys() - HONOURED:
        return None
    return guided_velocity(model, x, t, conditioning, call)


Inputs = Callable[[torch.Tensor, torch.Tensor, Tensors], tuple[torch.Tensor, torch.Tensor]]
"""Maps latents (B, C, F, h, w), t (B,) and conditioning to the transformer's inputs: latents and timestep."""


def plain_inputs(latents: torch.Tensor, t: torch.Tensor, conditioning: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents themselves, and one timestep per sample."""
    return latents, t


def guided_velocity(
    model: LoadedModel,
    x: Streams,
    t: torch.Tensor,
    conditioning: Tensors,
    call: Mapping[str, Any],
    inputs: Inputs = plain_inputs,
) -> Streams:
    """Velocity (B, C, F, h, w) of x (B, C, F, h, w) at t (B,), with one or two experts.

    Args:
        conditioning: the prompts' embeddings; if the transformer takes image embeddings, these (B, N, D) or (B, 2, N,
            D) under :data:`IMAGE_EMBEDS`; and the tensors that ``inputs`` needs.
    """
    pipe, scale = model.pipe, model.argument(call, "guidance_scale")
    on = scale > 1  # for both experts, as upstream
    if pipe.config.boundary_ratio is None:
        return classifier_free(_velocity(model, pipe.transformer, inputs), x, t, conditioning, scale, on)
    second = model.argument(call, "guidance_scale_2")
    experts = ((pipe.transformer, scale), (pipe.transformer_2, scale if second is None else second))
    low = t < pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps  # (B,)

    def answer(rows: torch.Tensor) -> Streams:
        expert, of_expert = experts[int(low[rows[0]])]
        velocity = _velocity(model, expert, inputs)
        return classifier_free(velocity, take(x, rows), t[rows], take(conditioning, rows), of_expert, on)

    sides = [side.nonzero().flatten() for side in (~low, low)]
    return in_groups([rows for rows in sides if len(rows)], answer)


def _velocity(model: LoadedModel, expert: Any, inputs: Inputs) -> Velocity:
    def velocity(x: Streams, t: torch.Tensor, text: Tensors) -> Streams:
        latents, timestep = inputs(x["x"], t, text)
        image = text.get(IMAGE_EMBEDS)
        (output,) = expert(
            hidden_states=latents.to(model.input_dtype),
            timestep=timestep,
            encoder_hidden_states=text["prompt_embeds"].to(model.input_dtype),
            encoder_hidden_states_image=None if image is None else image.flatten(0, -3).to(model.input_dtype),
            return_dict=False,
        )
        return {"x": output}

    return velocity
