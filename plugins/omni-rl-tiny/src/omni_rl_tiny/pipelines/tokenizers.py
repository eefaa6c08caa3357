"""Tokenizers of real classes with vocabularies small enough to make on the spot."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTokenizerFast,
    GemmaTokenizer,
    LlamaTokenizer,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5TokenizerFast,
)

WORDS = "describe the image a sign that says hello world 0 1 2 3 4 5 6 7 8 9 system user assistant"
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
PARTS = CHAT.replace(
    "{{ m.content }}",
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}",
)
"""The same for messages in parts, as multimodal processors take them."""

QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip


def clip_tokenizer() -> CLIPTokenizerFast:
    """One token for a character: a trained vocabulary would be in another order in every process."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    letters = [(c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz0123456789"]
    raw = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return T5TokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=0, model_max_length=77
    )


def gemma_tokenizer() -> GemmaTokenizer:
    letters = "\u2581abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *letters])}
    return GemmaTokenizer(vocab=vocabulary, merges=[])


def llama_tokenizer() -> LlamaTokenizer:
    letters = "\u2581abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    return LlamaTokenizer(vocab=vocabulary, merges=[], pad_token="</s>", model_max_length=77)


def mistral_tokenizer() -> Qwen2TokenizerFast:
    """Takes messages in the form in which multimodal processors do."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT.replace("m.content", "m.content[0].text")
    return tokenizer


def qwen_tokenizer() -> Qwen2TokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=QWEN_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator([WORDS] * 4, trainer)
    return Qwen2TokenizerFast(
        tokenizer_object=raw,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT,
    )


def qwen3_vl_processor() -> Qwen3VLProcessor:
    """A tokenizer, and what would scale images for the text encoder."""
    sizes = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**sizes), qwen_tokenizer(), Qwen3VLVideoProcessor(**sizes), chat_template=PARTS
    )
