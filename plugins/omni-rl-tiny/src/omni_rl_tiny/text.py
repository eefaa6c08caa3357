"""A Qwen2 tokenizer trained on a few words, and a small random Qwen2.5-VL text encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

PREFIX_TOKENS = 34
"""QwenImagePipeline drops this many leading tokens (its system prompt) from every prompt's embeddings."""

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The prompt template of QwenImagePipeline (``prompt_template_encode``)."""

_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_VISION = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
_SPECIALS = [_START, _END, *_VISION.values()]

_VOCABULARY = 2048  # an upper bound: training stops when every word of the corpus is one token


def train_tokenizer(phrases: Sequence[str]) -> PreTrainedTokenizerBase:
    """A Qwen2 tokenizer in which every word of the template and of ``phrases`` is one token; other text falls to bytes.

    The template's prefix then has as many tokens as in the real tokenizer (:data:`PREFIX_TOKENS`), so the pipeline
    drops exactly the prefix. Digits stand alone, as in Qwen2, so numbers of equal length have equally many tokens.
    Deterministic.
    """
    blank = Qwen2Tokenizer(eos_token=_END, pad_token=_PAD, extra_special_tokens=_SPECIALS)
    corpus = [*_template_text(), *phrases]
    return blank.train_new_from_iterator(corpus, _VOCABULARY, min_frequency=1, show_progress=False)


def _template_text() -> list[str]:
    """The template cut at its special tokens, which must not take part in merges."""
    return re.split("|".join(map(re.escape, _SPECIALS)), TEMPLATE.format(""))


def prefix_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens before the prompt; must be at least :data:`PREFIX_TOKENS`, or the pipeline cuts the prompt."""
    return len(tokenizer(TEMPLATE.split("{}")[0]).input_ids)


def random_text_encoder(
    tokenizer: PreTrainedTokenizerBase, width: int, layers: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with random weights from torch's global generator, fp32; ``width`` is divisible by 32.

    Untrained embeddings still tell prompts apart, which is all that a frozen encoder has to do here.
    """
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _VISION.items()}
    ends = {"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
        "pad_token_id": tokenizer.pad_token_id,
        **ends,
    }
    # The image side is never called; it is present, and minimal, because the class has it.
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 1,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids, **ends)
    return Qwen2_5_VLForConditionalGeneration(config).eval()
