from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omni_rl_tiny.pipelines import pictures


@pytest.fixture(scope="session")
def folder(tiny_folder: Callable[[str], Path]) -> Iterator[Path]:
    """A tiny random QwenImageEditPlusPipeline, which scales its pictures to a tiny area."""
    with pytest.MonkeyPatch.context() as patch:
        pictures.small_pictures(patch)
        yield tiny_folder("QwenImageEditPlusPipeline")
