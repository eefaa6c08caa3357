"""Translates open_clip's weight names to those of transformers (https://github.com/mlfoundations/open_clip)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

_RENAMED = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),  # transformers spells it so
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_TRANSPOSED = ("visual.proj", "text_projection")  # open_clip multiplies from the right


def clip_weights(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of ``transformers.CLIPModel`` from that of ``open_clip.CLIP``; an unknown name stays as it is."""
    return {name: tensor for key, value in published.items() for name, tensor in _converted(key, value)}


def _converted(key: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    name = key
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if ".in_proj_" in name:  # one matrix for queries, keys and values
        stem, kind = name.split("in_proj_")
        yield from zip((f"{stem}{which}_proj.{kind}" for which in "qkv"), value.chunk(3), strict=True)
    else:
        yield name, value.T if key in _TRANSPOSED else value
