"""omni-rl: RL post-training for diffusion and flow-matching models, as a plugin ecosystem.

Names for users and plugin authors; importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omni_rl._version import __version__
from omni_rl.contracts.hooks import hookimpl

if TYPE_CHECKING:
    from omni_rl.run.start import Run, check, resume, train


__all__ = ["Run", "__version__", "check", "hookimpl", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Run", "check", "resume", "train"):
        from omni_rl.run import start

        return getattr(start, name)
    raise AttributeError(f"module 'omni_rl' has no attribute {name!r}")
