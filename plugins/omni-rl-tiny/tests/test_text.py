"""The tokenizer fits QwenImagePipeline's template exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import QwenImagePipeline
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from omni_rl_tiny.signs import NUMBERS, prompt_for
from omni_rl_tiny.text import PREFIX_TOKENS, TEMPLATE, prefix_length, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([prompt_for("42")])


def test_template_is_the_pipelines() -> None:
    pipeline = QwenImagePipeline(None, None, None, None, None)
    assert pipeline.prompt_template_encode == TEMPLATE
    assert pipeline.prompt_template_encode_start_idx == PREFIX_TOKENS == 34


def test_prefix_is_exactly_what_the_pipeline_drops(tokenizer: PreTrainedTokenizerBase) -> None:
    assert prefix_length(tokenizer) == 34
    ids = tokenizer(TEMPLATE.format(prompt_for("42"))).input_ids
    kept = tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids[34:]))
    assert kept == 'a sign that says "42"<|im_end|>\n<|im_start|>assistant\n'


def test_prompts_have_equally_many_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [tuple(tokenizer(TEMPLATE.format(prompt_for(number))).input_ids) for number in NUMBERS]
    assert {len(row) for row in rows} == {34 + 13}
    assert len(set(rows)) == 100


def test_untrained_text_falls_to_bytes_without_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Gr\u00fc\u00dfe, \u4e16\u754c! x=3.14 don't"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_training_is_deterministic(tokenizer: PreTrainedTokenizerBase) -> None:
    again = train_tokenizer([prompt_for("42")])
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = Qwen2Tokenizer.from_pretrained(tmp_path)
    text = TEMPLATE.format('a sign that says "42", or \u00e9')
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert (loaded.pad_token, loaded.eos_token) == ("<|endoftext|>", "<|im_end|>")
