"""Builds small random models of the real classes, to try a configuration without a download.

Their scores mean nothing, and differ between images and prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import BertTokenizer, BlipConfig, CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from omni_rl_preference_rewards.blip import ImageRewardModel
from omni_rl_preference_rewards.rating import RatingHead

WIDTH = 32
"""Width of the embeddings of :func:`build_clip`, which :func:`build_head` accepts."""

_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_PICTURE = {"image_size": 32, "patch_size": 8, "hidden_act": "gelu"}


def build_clip(folder: Path, seed: int = 0) -> Path:
    """A folder for ``clip_score``, ``pickscore``, ``hps_v2``, and as ``path`` for ``aesthetic``; returns it."""
    tokenizer = _clip_tokenizer()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**_TOWER, **special, "vocab_size": len(tokenizer), "hidden_act": "gelu"}
    config = CLIPConfig(text_config=text, vision_config={**_TOWER, **_PICTURE}, projection_dim=WIDTH)
    _random(lambda: CLIPModel(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


def build_head(file: Path, seed: int = 0) -> Path:
    """A file for ``head`` of ``aesthetic``; returns it."""
    save_file(_random(lambda: RatingHead(WIDTH), seed).state_dict(), file)
    return file


def build_image_reward(folder: Path, seed: int = 0) -> Path:
    """A folder for ``image_reward``; returns it."""
    tokenizer = _bert_tokenizer()
    special = {"bos_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    text = {**_TOWER, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = BlipConfig(text_config=text, vision_config={**_TOWER, **_PICTURE, "layer_norm_eps": 1e-6})
    _random(lambda: ImageRewardModel(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _clip_tokenizer() -> CLIPTokenizer:
    """One token for a character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _bert_tokenizer() -> BertTokenizer:
    """One token for a letter or digit."""
    letters = [*ascii_lowercase, *digits]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def _random(build: Callable[[], Any], seed: int) -> Any:
    """Set the matrices to random values of deviation 1 / sqrt(fan in), so that outputs depend on inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = torch.randn(parameter.shape) / parameter[0].numel() ** 0.5
    return model
