"""Stable Diffusion 3 and 3.5 (``StableDiffusion3Pipeline``): the velocity for rollout and training.

It follows ``diffusers.StableDiffusion3Pipeline``, and the tests compare it with that pipeline. Latents are (B, C, h,
w). Core's defaults take schedule, shapes, embeddings and decoding from the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.authoring.model import classifier_free, refuse_cut
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ConfigError

HONOURED = {"height", "width", "guidance_scale", "max_sequence_length", "clip_skip", "mu"}
"""If the call has any other argument, the velocity is computed by the pipeline itself."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Steps and guidance of the model card of 3.5 Medium; LoRA on the attention projections of both branches."""
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    return {
        "rollout": {"call": {"guidance_scale": 4.5}},
        "validation": {"steps": 40},
        "model": {"lora": {"targets": targets}},
    }


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that even the encoder with the highest limit would cut; otherwise the pipeline
    encodes it.

    The two CLIPs read the first 77 tokens, T5 up to ``max_sequence_length``. Prompts longer than CLIP's limit are
    normal.

    Raises:
        DataError: a prompt is longer than the limit of every encoder.
    """
    texts, pipe = [*prompts, *(negative_prompts or ())], model.pipe
    if pipe.text_encoder_3 is None:
        ids = pipe.tokenizer(texts, verbose=False).input_ids
        refuse_cut(texts, ids, pipe.tokenizer_max_length, " (this pipeline has no T5, which reads more)")
    else:
        ids, limit = pipe.tokenizer_3(texts, verbose=False).input_ids, model.argument(call, "max_sequence_length")
        refuse_cut(texts, ids, limit, ", or set rollout.call.max_sequence_length (at most 512)")


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with classifier-free guidance.

    Raises:
        ConfigError: the call uses skip-layer guidance.
    """
    if call.get("skip_guidance_layers"):
        what = "rollout.call.skip_guidance_layers: it depends on the number of the step, which replay does not know"
        raise ConfigError(what, "take it out")
    if call.keys() - HONOURED:
        return None

    def velocity(x: Streams, t: torch.Tensor, text: Tensors) -> Streams:
        latents = x["x"].to(model.input_dtype)
        (output,) = model.pipe.transformer(
            hidden_states=latents,
            timestep=t,
            encoder_hidden_states=text["prompt_embeds"].to(latents.dtype),
            pooled_projections=text["pooled_prompt_embeds"].to(latents.dtype),
            return_dict=False,
        )
        return {"x": output}

    scale = model.argument(call, "guidance_scale")
    return classifier_free(velocity, x, t, conditioning, scale, on=scale > 1)
