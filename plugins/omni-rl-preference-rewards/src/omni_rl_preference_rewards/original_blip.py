"""ImageReward's own names of its weights as those of :class:`~omni_rl_preference_rewards.blip.ImageRewardModel`.

It was written on the original BLIP (https://github.com/salesforce/BLIP): timm's vision transformer, BERT with
cross-attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from transformers import BlipConfig

HEAD_WIDTH = 64
"""Width of each attention head in every BERT and in both sizes of BLIP. The weights do not contain it."""

_RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.", "vision_model.encoder.layers."),
    (r"^blip\.text_encoder\.", "text_encoder."),
    (r"^mlp\.", "head."),
)
_UNUSED = re.compile(r"^blip\.(vision_proj|text_proj)\.|\.position_ids$")


def blip_weights(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of ``ImageRewardModel`` from that of ImageReward."""
    return {_renamed(key): value for key, value in published.items() if not _UNUSED.search(key)}


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def blip_config(published: Mapping[str, torch.Tensor]) -> BlipConfig:
    """Sizes read from ImageReward's weights. Raises KeyError with the name of a missing weight."""
    return BlipConfig(vision_config=_vision(published), text_config=_text(published))


def _vision(published: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    _, places, width = published["blip.visual_encoder.pos_embed"].shape
    patch = published["blip.visual_encoder.patch_embed.proj.weight"].shape[-1]
    return {
        "image_size": isqrt(places - 1) * patch,
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": len(published["blip.visual_encoder.blocks.0.mlp.fc1.weight"]),
        "num_hidden_layers": _layers(published, "blip.visual_encoder.blocks."),
        "num_attention_heads": width // HEAD_WIDTH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,  # timm's; transformers' default for BLIP is another
    }


def _text(published: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    vocabulary, width = published["blip.text_encoder.embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "encoder_hidden_size": published["blip.visual_encoder.pos_embed"].shape[-1],
        "intermediate_size": len(published["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"]),
        "num_hidden_layers": _layers(published, "blip.text_encoder.encoder.layer."),
        "num_attention_heads": width // HEAD_WIDTH,
        "max_position_embeddings": len(published["blip.text_encoder.embeddings.position_embeddings.weight"]),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "is_decoder": True,  # which is how transformers spells "has cross-attention"; the mask stays bidirectional
    }


def _layers(published: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in published if key.startswith(prefix)})
