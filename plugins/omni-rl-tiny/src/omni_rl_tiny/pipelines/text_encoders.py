"""Small text encoders that several architectures share."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPTextConfig,
    CLIPTokenizerFast,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaConfig,
    GemmaModel,
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
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5Gemma2Encoder,
    T5Gemma2EncoderConfig,
    T5GemmaConfig,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from omni_rl_tiny.pipelines.tokenizers import QWEN_SPECIALS

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
    return {"vocab_size": len(tokenizer), "d_model": width, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}


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


def gemma(tokenizer: PreTrainedTokenizerBase) -> GemmaModel:
    return GemmaModel(GemmaConfig(**decoder_sizes(tokenizer)))


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


def t5gemma(tokenizer: PreTrainedTokenizerBase) -> T5GemmaEncoder:
    sizes = decoder_sizes(tokenizer)
    config = T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False)
    model = T5GemmaEncoder(config.encoder)
    model.config = config  # what diffusers looks for when it loads one
    return model


def t5gemma2(tokenizer: PreTrainedTokenizerBase) -> T5Gemma2Encoder:
    text = {**decoder_sizes(tokenizer), "dropout_rate": 0.0}
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text, vision_config=_VISION, mm_tokens_per_image=1))


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


def _qwen3_vl_config(tokenizer: PreTrainedTokenizerBase, layers: int) -> Qwen3VLConfig:
    text = {**decoder_sizes(tokenizer, layers), "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "intermediate_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision)


def qwen3_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLModel:
    return Qwen3VLModel(_qwen3_vl_config(tokenizer, layers=2))


def qwen3_vl_for_generation(tokenizer: PreTrainedTokenizerBase, layers: int = 2) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration(_qwen3_vl_config(tokenizer, layers))


def qwen_vl(tokenizer: PreTrainedTokenizerBase, layers: int = 2) -> Qwen2_5_VLForConditionalGeneration:
    ids = {s: tokenizer.convert_tokens_to_ids(s) for s in QWEN_SPECIALS}
    text = {
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
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


def qwen2_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLForConditionalGeneration:
    text = {**decoder_sizes(tokenizer), "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}}
    del text["head_dim"]
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": WIDTH, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
