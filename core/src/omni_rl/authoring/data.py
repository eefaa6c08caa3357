"""For authors of dataset formats: rows of prompts, and lines with the number that errors name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.data.prompts import PromptRow, numbered_lines, placed_rows

_MODULES = {
    "omni_rl.data.prompts": ("PromptRow", "numbered_lines", "placed_rows"),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "PromptRow",
    "numbered_lines",
    "placed_rows",
]
