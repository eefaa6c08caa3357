"""The message in a prompt, as JSON; it contains no pickled objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omni_rl.authoring.engine import Asked

KEY = "omni_rl"
"""The key of the message in a prompt."""

ADAPTER_ID = 1
"""The id of the worker's only adapter."""


def asked_in(prompt: Any) -> Asked | None:
    """The message in a prompt; None for a prompt of vLLM-Omni itself (its warm-up)."""
    text = prompt.get(KEY) if isinstance(prompt, Mapping) else None
    return None if text is None else Asked.from_json(text)
