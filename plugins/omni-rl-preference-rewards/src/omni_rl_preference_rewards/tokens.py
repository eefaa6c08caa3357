"""Prompts as token ids. A prompt is truncated only if the option ``long_prompts`` says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omni_rl.errors import DataError
from omni_rl_preference_rewards.options import LongPrompts


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int, long_prompts: LongPrompts) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` (N, limit) int64. All are padded to the limit, so a text's score does not
    depend on other texts.

    Args:
        tokenizer: of transformers; adds its special tokens, which count.
        texts: N texts.
        limit: tokens that the model reads.
        long_prompts: ``truncate`` keeps the beginning and the closing token, as the published scores do.

    Raises:
        DataError: a text is longer, and ``long_prompts`` is ``error``.
    """
    texts = list(texts)
    if long_prompts == "error":
        _refuse_long(texts, [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]], limit)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _refuse_long(texts: Sequence[str], lengths: Sequence[int], limit: int) -> None:
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise DataError(
                f"the scoring model reads {limit} tokens, and this prompt has {length}: {text!r}",
                "shorten it, or set `long_prompts: truncate` beside the reward's name to score it by its beginning",
            )
