"""For authors of dataset formats: prompt rows, lines with their number for errors, images, atomic writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.contracts.prompts import PromptRow
    from omni_rl.data.media_files import load_image
    from omni_rl.data.prompts import numbered_lines, placed_rows
    from omni_rl.storage.durable import write_atomic

_MODULES = {
    "omni_rl.contracts.prompts": ("PromptRow",),
    "omni_rl.data.media_files": ("load_image",),
    "omni_rl.data.prompts": (
        "numbered_lines",
        "placed_rows",
    ),
    "omni_rl.storage.durable": ("write_atomic",),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = ["PromptRow", "load_image", "numbered_lines", "placed_rows", "write_atomic"]
