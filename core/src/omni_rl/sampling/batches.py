"""Decides which requests can be sampled in one batch."""

from __future__ import annotations

from collections.abc import Hashable

from omni_rl.contracts.call import frozen
from omni_rl.contracts.requests import Request
from omni_rl.data.media_files import form as media_form


def form(request: Request) -> Hashable:
    """A key that is equal for requests that can be sampled in one batch."""
    has_negative = request.negative_prompt is not None
    alike = (request.steps, request.window.size, request.sde, frozen(request.call), media_form(request.media))
    return has_negative, *alike
