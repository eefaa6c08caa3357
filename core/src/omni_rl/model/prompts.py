"""Lengths of prompts, for model plugins whose text the pipeline itself encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omni_rl.errors import DataError


def refuse_cut(tokenizer: Any, prompts: Sequence[str], limit: int, hint: str) -> None:
    """Pipelines cut what is too long and go on; words that are cut off cannot be rewarded.

    Args:
        tokenizer: of transformers. limit: tokens that the text encoder is given, special ones included.
        hint: what the user may do about it besides to shorten the prompt.

    Raises:
        DataError: a prompt has more tokens; names the first.
    """
    for prompt, ids in zip(prompts, tokenizer(list(prompts), verbose=False).input_ids, strict=True):
        if len(ids) > limit:
            what = f"a prompt has {len(ids)} tokens, and the pipeline keeps {limit} of them: {prompt[:60]!r}..."
            raise DataError(what, f"shorten the prompt{hint}")
