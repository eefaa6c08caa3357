"""``omni-rl export``: a run's weights for plain diffusers, with a model card, compared with the run's own images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omni_rl_export.export import Format, Precision, Wanted, export_run

__all__ = ["Format", "Precision", "Wanted", "export_run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from omni_rl_export import export  # imports torch, which `omni-rl --help` should not

        return getattr(export, name)
    raise AttributeError(f"module 'omni_rl_export' has no attribute {name!r}")
