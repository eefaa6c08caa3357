"""Which requests may be drawn in one batch."""

from __future__ import annotations

from collections.abc import Hashable

from omni_rl.contracts.call import frozen
from omni_rl.contracts.requests import Request
from omni_rl.data.media_files import form as media_form


def form(request: Request) -> Hashable:
    """Equal for requests that can be drawn in one batch."""
    has_negative = request.negative_prompt is not None
    alike = (request.steps, request.window.size, request.sde, frozen(request.call), media_form(request.media))
    return has_negative, *alike
