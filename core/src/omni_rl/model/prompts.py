"""Lengths of prompts, for model plugins whose text the pipeline itself encodes."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rl.errors import DataError


def refuse_cut(prompts: Sequence[str], ids: Sequence[Sequence[int]], limit: int, hint: str) -> None:
    """Pipelines cut what is too long and go on; words that are cut off cannot be rewarded.

    Args:
        ids: each prompt's tokens, with its template. limit: how many of them the text encoder is given.
        hint: what the user may do about it besides to shorten the prompt.

    Raises:
        DataError: a prompt has more tokens; names the first.
    """
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) > limit:
            what = f"a prompt has {len(tokens)} tokens, and the pipeline keeps {limit} of them: {prompt[:60]!r}..."
            raise DataError(what, f"shorten the prompt{hint}")
