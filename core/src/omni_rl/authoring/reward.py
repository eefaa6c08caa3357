"""For authors of rewards: the device for a reward's own model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.model.loading import pick_device

_MODULES = {
    "omni_rl.model.loading": ("pick_device",),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "pick_device",
]
