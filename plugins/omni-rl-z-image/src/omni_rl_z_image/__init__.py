"""Z-Image (``ZImagePipeline``): the velocity, stated once for rollout and training.

Follows ``diffusers.ZImagePipeline``; the tests hold it to that pipeline. Latents are (B, C, h, w). The transformer
takes lists instead of batches, counts time from noise to picture, and answers the velocity the other way round. A
trajectory keeps the embeddings padded, with a mask. Schedule, shapes, embeddings and decoding are core's defaults: the
pipeline's own, asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.model.guidance import classifier_free
from omni_rl.model.limits import refuse_cut

HONOURED = {"height", "width", "guidance_scale", "max_sequence_length"}
"""With any other argument (``cfg_normalization``, ``cfg_truncation``) the pipeline itself is asked for the velocity."""


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
    """Leaves the encoding to the pipeline, but for what it would cut.

    Raises:
        DataError: the text encoder does not read all of a prompt with its template.
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
    """Velocity; its guidance scale is what others call one less: ``positive + scale * (positive - negative)``."""
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
