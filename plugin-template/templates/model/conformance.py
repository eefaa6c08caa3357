"""Fixtures of the contract suite for models: a tiny random pipeline. The tests and `omni-rl conformance` use it.

Nothing else imports this module, which needs `omni-rl[testing]`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, AutoencoderKL, FlowMatchEulerDiscreteScheduler
from omni_rl_testing.model import ModelContract
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import {{ cookiecutter.module }}


class AuraFlow(ModelContract):
    """The fixtures of the inherited contract tests."""

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls) -> ModuleType:
        """The module under test."""
        return {{ cookiecutter.module }}

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        """Arguments for the pipeline."""
        return {"height": 16, "width": 24}

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A pipeline folder, written by `save_pretrained`."""
        return save_tiny(tmp_path_factory.mktemp("tiny"))


def save_tiny(folder: Path) -> Path:
    """Write the pipeline, always the same one, and return its folder."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text_encoder(len(tokenizer)),
        vae=tiny_vae(),
        transformer=tiny_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    ).save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character. A general tokenizer class replaces the architecture's own."""
    vocabulary = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789 "]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **special)


def tiny_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=vocab_size, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def tiny_transformer() -> AuraFlowTransformer2DModel:
    return AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
