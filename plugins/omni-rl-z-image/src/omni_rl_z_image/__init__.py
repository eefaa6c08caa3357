"""Z-Image (``ZImagePipeline``): the velocity for rollout and training.

It follows ``diffusers.ZImagePipeline``, and the tests compare it with that pipeline. Latents are (B, C, h, w). The
transformer takes lists instead of batches, its time goes from noise to image, and its output is the negative velocity.
A trajectory stores padded embeddings with a mask. Core's defaults take schedule, shapes, embeddings and decoding from
the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.authoring.model import classifier_free, refuse_cut
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors

HONOURED = {"height", "width", "guidance_scale", "max_sequence_length"}
"""If the call has any other argument (``cfg_normalization``, ...), the velocity is computed by the pipeline itself."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Guidance and steps of the model card of Z-Image (Turbo has none, and 9); LoRA on the attention projections."""
    return {
        "rollout": {"call": {"guidance_scale": 4.0}},
        "validation": {"steps": 50},
        "model": {"lora": {"targets": ["to_q", "to_k", "to_v", "to_out.0"]}},
    }


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that would be cut; otherwise the pipeline encodes it.

    Raises:
        DataError: a prompt with its template is longer than the text encoder's limit.
    """
    texts, limit = [*prompts, *(negative_prompts or ())], model.argument(call, "max_sequence_length")
    chats = [[{"role": "user", "content": text}] for text in texts]
    template = {"add_generation_prompt": True, "enable_thinking": True, "return_dict": True}
    ids = model.pipe.tokenizer.apply_chat_template(chats, **template)["input_ids"]
    refuse_cut(texts, ids, limit, ", or set rollout.call.max_sequence_length")


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with guidance ``positive + scale * (positive - negative)``: this scale is 1 less than the usual CFG
    scale.
    """
    if call.keys() - HONOURED:
        return None

    def velocity(x: Streams, t: torch.Tensor, text: Tensors) -> Streams:
        latents = x["x"].to(model.input_dtype)[:, :, None]  # (B, C, 1, h, w)
        lengths = text["prompt_embeds_list_mask"].sum(1).tolist()
        rows = [row[:n] for row, n in zip(text["prompt_embeds"].to(latents.dtype), lengths, strict=True)]
        (outputs,) = model.pipe.transformer(list(latents), 1 - t / 1000, rows, return_dict=False)
        return {"x": -torch.stack(outputs)[:, :, 0].float()}

    scale = model.argument(call, "guidance_scale")
    return classifier_free(velocity, x, t, conditioning, 1 + scale, on=scale > 0)
