"""Stable Diffusion 3 and 3.5 (``StableDiffusion3Pipeline``): the velocity, stated once for rollout and training.

Follows ``diffusers.StableDiffusion3Pipeline``; the tests hold it to that pipeline. Latents are (B, C, h, w). Schedule,
shapes, embeddings and decoding are core's defaults: the pipeline's own, asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ConfigError
from omni_rl.model.guidance import classifier_free
from omni_rl.model.limits import refuse_cut

HONOURED = {"height", "width", "guidance_scale", "max_sequence_length", "clip_skip", "mu"}
"""With any other argument the pipeline itself is asked for the velocity."""


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
    """Leaves the encoding to the pipeline, but for what its longest encoder would cut.

    The two CLIPs read the first 77 tokens and T5 up to ``max_sequence_length``: a longer prompt than CLIP's is usual.

    Raises:
        DataError: no encoder reads all of a prompt.
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
        ConfigError: skip-layer guidance is asked for.
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
