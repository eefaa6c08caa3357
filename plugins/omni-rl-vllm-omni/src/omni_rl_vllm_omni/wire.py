"""The message that travels in a prompt: JSON, and nothing pickled of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omni_rl.authoring.engine import Asked

KEY = "omni_rl"
"""Of a prompt: where the message stands in it."""

ADAPTER_ID = 1
"""Of the one adapter that the worker holds."""


def asked_in(prompt: Any) -> Asked | None:
    """The message in a prompt; None for a prompt of upstream's own (its warm-up)."""
    text = prompt.get(KEY) if isinstance(prompt, Mapping) else None
    return None if text is None else Asked.from_json(text)
