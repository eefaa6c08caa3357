"""Small text encoders that several architectures share."""

from __future__ import annotations

from typing import Any

from tiny_tokenizers import QWEN_SPECIALS
from transformers import (
    CLIPTextConfig,
    CLIPTokenizerFast,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32


def clip_config(tokenizer: CLIPTokenizerFast, **changes: Any) -> CLIPTextConfig:
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return CLIPTextConfig(**{**values, **changes})


def _t5_sizes(tokenizer: PreTrainedTokenizerBase, width: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
    }


def t5_encoder(tokenizer: PreTrainedTokenizerBase, width: int = WIDTH) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**_t5_sizes(tokenizer, width)))


def umt5_encoder(tokenizer: PreTrainedTokenizerBase) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**_t5_sizes(tokenizer, WIDTH)))


def decoder_sizes(tokenizer: PreTrainedTokenizerBase, layers: int = 2) -> dict[str, int]:
    """What the configurations of language models call alike."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }


def gemma2(tokenizer: PreTrainedTokenizerBase) -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**decoder_sizes(tokenizer)))


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma3(tokenizer: PreTrainedTokenizerBase) -> Gemma3ForConditionalGeneration:
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=decoder_sizes(tokenizer), vision_config=_VISION, mm_tokens_per_image=1)
    )


def mistral3(tokenizer: PreTrainedTokenizerBase) -> Mistral3ForConditionalGeneration:
    text = {"model_type": "mistral", **decoder_sizes(tokenizer)}
    vision = {"model_type": "pixtral", **_VISION, "head_dim": 8}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision, image_token_index=0))


def llama(tokenizer: PreTrainedTokenizerBase, layers: int = 2) -> LlamaModel:
    return LlamaModel(LlamaConfig(**decoder_sizes(tokenizer, layers)))


def llama_for_causal_lm(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**decoder_sizes(tokenizer)))


def glm(tokenizer: PreTrainedTokenizerBase) -> GlmModel:
    return GlmModel(GlmConfig(**decoder_sizes(tokenizer), pad_token_id=0))


def qwen3(tokenizer: PreTrainedTokenizerBase) -> Qwen3Model:
    return Qwen3Model(Qwen3Config(**decoder_sizes(tokenizer)))


def qwen3_for_causal_lm(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**decoder_sizes(tokenizer)))


def qwen_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLForConditionalGeneration:
    ids = {s: tokenizer.convert_tokens_to_ids(s) for s in QWEN_SPECIALS}
    text = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 2 * WIDTH,
        "vocab_size": len(tokenizer),
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "intermediate_size": 32,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        vocab_size=len(tokenizer),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config=text,
        vision_config=vision,
    )
    return Qwen2_5_VLForConditionalGeneration(config)
