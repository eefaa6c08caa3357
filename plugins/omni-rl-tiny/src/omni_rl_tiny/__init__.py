"""Small checkpoints that ship with the package, and pipelines small enough for tests. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_rl_tiny.build import Sizes

__all__ = ["build_random", "tiny_qwen_signs", "tiny_random"]


def tiny_qwen_signs() -> Path:
    """Folder of the checkpoint ``tiny-qwen-signs``: a QwenImagePipeline whose two-digit signs are hard to read.

    ``prompts_train.jsonl`` and ``prompts_heldout.jsonl`` lie in it (rows ``{"prompt": ..., "text": "42"}``), and
    ``provenance.json`` says how it was made and how well it scores. Images are 64 x 32 pixels (width x height).
    """
    return Path(__file__).with_name("checkpoints") / "tiny-qwen-signs"


def tiny_random(name: str) -> Path:
    """Folder of the checkpoint ``tiny-random/NAME``: an untrained pipeline of the architecture ``NAME``, built when it
    is first asked for. ``call.json`` in it has arguments of a size that suits it.

    Raises:
        ModelError: there is none of this name.
    """
    from omni_rl_tiny import kept

    return kept.folder(name)


def build_random(
    folder: str | Path, seed: int = 0, sizes: Sizes | None = None, phrases: Sequence[str] = ("a plain card",)
) -> Path:
    """Write an untrained QwenImagePipeline folder, 2.5 MB with the default ``Sizes(layers=2)``, and return its path.

    Its images are noise, yet RL raises a simple reward such as brightness within seconds.
    Sides of its images are divisible by 8. ``seed`` determines the weights, ``phrases`` the tokenizer.
    """
    from omni_rl_tiny.build import Sizes, assemble

    assemble(sizes or Sizes(layers=2), phrases, seed).save_pretrained(folder)
    return Path(folder)
