"""The published checkpoints' own models and preparation of pictures in float64: what the rewards are held to.

Written from open_clip's ``CLIP`` and from ``ImageReward`` on the original BLIP; they share no code with transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

Weights = dict[str, torch.Tensor]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # ImageReward.mean, ImageReward.std


def normalised(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> (3, H, W) float64."""
    return ((pixels - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


def cropped(picture: np.ndarray, size: int = 32) -> np.ndarray:
    """CLIP's preparation with Pillow alone: bicubic, shorter side ``size``, the middle."""
    image = Image.fromarray(picture)
    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return normalised(resized[top : top + size, left : left + size] / 255)


def fitted(picture: np.ndarray, size: int = 32) -> np.ndarray:
    """hpsv2's preparation, channel by channel with Pillow's own floating-point resampling."""
    height, width = (round(side * size / max(picture.shape[:2])) for side in picture.shape[:2])
    channels = [Image.fromarray(channel) for channel in (picture / 255).astype(np.float32).transpose(2, 0, 1)]
    resized = np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels], -1)
    square = np.zeros((size, size, 3))
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = resized
    return normalised(square)


def random_weights(shapes: dict[str, Sequence[int]], seed: int = 0) -> Weights:
    """fp32; norms near 1, biases near 0, matrices that keep the size of what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(tuple(shape), generator=generator) for name, shape in shapes.items()}
    for name, value in weights.items():
        if value.dim() < 2:
            value.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
        else:
            value.div_(value[0].numel() ** 0.5)
    return weights


def layer(prefix: str, out: int, into: int) -> dict[str, Sequence[int]]:
    return {f"{prefix}.weight": (out, into), f"{prefix}.bias": (out,)}


def norm(prefix: str, width: int) -> dict[str, Sequence[int]]:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normed(w: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, seen: torch.Tensor) -> torch.Tensor:
    """(N, L, D) from queries (N, L, D) and keys and values (N, M, D); ``seen`` is broadcastable to (N, heads, L, M)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)


# ------------------------------------------------------------------------------------------------------- open_clip


def open_clip_shapes(
    words: int, width: int, depth: int, image: int, patch: int, embed: int
) -> dict[str, Sequence[int]]:
    shapes: dict[str, Sequence[int]] = {
        "logit_scale": (),
        "positional_embedding": (77, width),
        "token_embedding.weight": (words, width),
        "text_projection": (width, embed),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((image // patch) ** 2 + 1, width),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.proj": (width, embed),
    }
    for name in ("ln_final", "visual.ln_pre", "visual.ln_post"):
        shapes |= norm(name, width)
    for tower in ("transformer", "visual.transformer"):
        for block in (f"{tower}.resblocks.{i}" for i in range(depth)):
            shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            shapes |= layer(f"{block}.attn.out_proj", width, width)
            shapes |= layer(f"{block}.mlp.c_fc", 2 * width, width) | layer(f"{block}.mlp.c_proj", width, 2 * width)
    return shapes


def open_clip_cosines(weights: Weights, pixels: torch.Tensor, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Cosines (N,) of pictures (N, 3, S, S) and texts (N, 77) whose closing tokens stand at ``ends`` (N,)."""
    w = {name: value.double() for name, value in weights.items()}
    patches = F.conv2d(pixels.double(), w["visual.conv1.weight"], stride=w["visual.conv1.weight"].shape[-1])
    x = patches.flatten(2).mT
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.positional_embedding"]
    x = _blocks(w, "visual.transformer", normed(w, "visual.ln_pre", x, 1e-5), torch.tensor(True))
    seen = normed(w, "visual.ln_post", x[:, 0], 1e-5) @ w["visual.proj"]
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    x = _blocks(w, "transformer", x, torch.ones(77, 77).tril().bool())
    read = normed(w, "ln_final", x, 1e-5)[torch.arange(len(x)), ends] @ w["text_projection"]
    return F.cosine_similarity(seen, read)


def _blocks(w: Weights, tower: str, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    depth = sum(name.startswith(f"{tower}.resblocks.") and name.endswith("ln_1.weight") for name in w)
    for block in (f"{tower}.resblocks.{i}" for i in range(depth)):
        y = normed(w, f"{block}.ln_1", x, 1e-5)
        q, k, v = (y @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]).chunk(3, -1)
        x = x + linear(w, f"{block}.attn.out_proj", attention(q, k, v, 2, seen))
        y = linear(w, f"{block}.mlp.c_fc", normed(w, f"{block}.ln_2", x, 1e-5))
        x = x + linear(w, f"{block}.mlp.c_proj", F.gelu(y))
    return x


# ----------------------------------------------------------------------------------------------------- ImageReward


def image_reward_shapes(
    words: int, text: int, vision: int, depths: tuple[int, int], image: int, patch: int, places: int, factor: int = 4
) -> dict[str, Sequence[int]]:
    shapes: dict[str, Sequence[int]] = {
        "blip.visual_encoder.cls_token": (1, 1, vision),
        "blip.visual_encoder.pos_embed": (1, (image // patch) ** 2 + 1, vision),
        "blip.visual_encoder.patch_embed.proj.weight": (vision, 3, patch, patch),
        "blip.visual_encoder.patch_embed.proj.bias": (vision,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (words, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (places, text),
        "blip.text_encoder.embeddings.position_ids": (1, places),
    }
    shapes |= norm("blip.visual_encoder.norm", vision) | norm("blip.text_encoder.embeddings.LayerNorm", text)
    shapes |= layer("blip.vision_proj", 256, vision) | layer("blip.text_proj", 256, text)
    for block in (f"blip.visual_encoder.blocks.{i}" for i in range(depths[0])):
        shapes |= norm(f"{block}.norm1", vision) | norm(f"{block}.norm2", vision)
        shapes |= layer(f"{block}.attn.qkv", 3 * vision, vision) | layer(f"{block}.attn.proj", vision, vision)
        shapes |= layer(f"{block}.mlp.fc1", factor * vision, vision) | layer(
            f"{block}.mlp.fc2", vision, factor * vision
        )
    for block in (f"blip.text_encoder.encoder.layer.{i}" for i in range(depths[1])):
        for kind, width in (("attention", text), ("crossattention", vision)):
            shapes |= layer(f"{block}.{kind}.self.query", text, text)
            shapes |= layer(f"{block}.{kind}.self.key", text, width) | layer(f"{block}.{kind}.self.value", text, width)
            shapes |= layer(f"{block}.{kind}.output.dense", text, text) | norm(f"{block}.{kind}.output.LayerNorm", text)
        shapes |= layer(f"{block}.intermediate.dense", factor * text, text)
        shapes |= layer(f"{block}.output.dense", text, factor * text) | norm(f"{block}.output.LayerNorm", text)
    for place, into, out in zip((0, 2, 4, 6, 7), (text, 1024, 128, 64, 16), (1024, 128, 64, 16, 1), strict=True):
        shapes |= layer(f"mlp.layers.{place}", out, into)
    return shapes


def image_rewards(weights: Weights, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``ImageReward.score`` (N,) of pictures (N, 3, S, S) for prompts (N, L); every head is 64 wide."""
    w = {name: value.double() for name, value in weights.items()}
    seen = _vision_transformer(w, pixels.double())
    embeddings = "blip.text_encoder.embeddings"
    x = w[f"{embeddings}.word_embeddings.weight"][ids]
    x = normed(w, f"{embeddings}.LayerNorm", x + w[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]], 1e-12)
    depth = sum(name.endswith("crossattention.self.query.weight") for name in w)
    for block in (f"blip.text_encoder.encoder.layer.{i}" for i in range(depth)):
        x = _bert_attention(w, f"{block}.attention", x, x, mask[:, None, None].bool())
        x = _bert_attention(w, f"{block}.crossattention", x, seen, torch.tensor(True))
        y = linear(w, f"{block}.output.dense", F.gelu(linear(w, f"{block}.intermediate.dense", x)))
        x = normed(w, f"{block}.output.LayerNorm", x + y, 1e-12)
    rating = x[:, 0]
    for place in (0, 2, 4, 6, 7):
        rating = linear(w, f"mlp.layers.{place}", rating)
    return (rating[:, 0] - MEAN) / STD


def _vision_transformer(w: Weights, pixels: torch.Tensor) -> torch.Tensor:
    v = "blip.visual_encoder"
    kernel = w[f"{v}.patch_embed.proj.weight"]
    x = F.conv2d(pixels, kernel, w[f"{v}.patch_embed.proj.bias"], stride=kernel.shape[-1]).flatten(2).mT
    x = torch.cat([w[f"{v}.cls_token"].expand(len(x), -1, -1), x], 1) + w[f"{v}.pos_embed"]
    for block in (f"{v}.blocks.{i}" for i in range(sum(name.endswith("attn.qkv.weight") for name in w))):
        q, k, value = linear(w, f"{block}.attn.qkv", normed(w, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(w, f"{block}.attn.proj", attention(q, k, value, x.shape[-1] // 64, torch.tensor(True)))
        y = F.gelu(linear(w, f"{block}.mlp.fc1", normed(w, f"{block}.norm2", x, 1e-6)))
        x = x + linear(w, f"{block}.mlp.fc2", y)
    return normed(w, f"{v}.norm", x, 1e-6)


def _bert_attention(w: Weights, name: str, x: torch.Tensor, given: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    q = linear(w, f"{name}.self.query", x)
    k, v = (linear(w, f"{name}.self.{kind}", given) for kind in ("key", "value"))
    y = linear(w, f"{name}.output.dense", attention(q, k, v, x.shape[-1] // 64, seen))
    return normed(w, f"{name}.output.LayerNorm", x + y, 1e-12)
