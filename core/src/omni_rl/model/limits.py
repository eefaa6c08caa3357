"""Limits of images, videos and prompts, for model plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omni_rl.errors import ConfigError, DataError


def patches(call: Mapping[str, Any], default: int, patch: int) -> tuple[int, int]:
    """(rows, columns) of squares of ``patch`` x ``patch`` pixels that an image is cut into.

    Args:
        call: pipeline arguments; ``height`` and ``width`` in pixels, each ``default`` where absent.
        patch: pixels along the side of the square that becomes one token.

    Raises:
        ConfigError: a side of the image is not a multiple of ``patch``.
    """
    rows, columns = (_count(name, call.get(name) or default, patch) for name in ("height", "width"))
    return rows, columns


def latent_frames(frames: int, every: int) -> int:
    """The number of latent frames, for an autoencoder that keeps the first frame and then one of ``every``.

    Raises:
        ConfigError: ``frames`` is not one more than a multiple of ``every``; pipelines would round it.
    """
    if frames % every != 1 % every:
        near = max(frames // every, 0) * every + 1
        what = f"rollout.call.num_frames: {frames} is not one more than a multiple of {every}"
        raise ConfigError(what, f"try {near}")
    return frames // every + (every > 1)


def _count(name: str, pixels: int, patch: int) -> int:
    if pixels % patch:
        near = max(pixels // patch, 1) * patch
        raise ConfigError(f"rollout.call.{name}: {pixels} is not a multiple of {patch}", f"try {near}")
    return pixels // patch


def refuse_cut(prompts: Sequence[str], ids: Sequence[Sequence[int]], limit: int, hint: str) -> None:
    """Refuse prompts that the pipeline would truncate: words that are cut off cannot be rewarded.

    Args:
        ids: each prompt's tokens, with its template.
        limit: the number of tokens that the text encoder is given.
        hint: what else the user may do, appended to "shorten the prompt".

    Raises:
        DataError: a prompt has more tokens; names the first.
    """
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) > limit:
            what = f"a prompt has {len(tokens)} tokens, and the pipeline keeps {limit} of them: {prompt[:60]!r}..."
            raise DataError(what, f"shorten the prompt{hint}")
