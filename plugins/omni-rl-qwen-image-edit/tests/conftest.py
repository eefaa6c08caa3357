from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny random QwenImageEditPlusPipeline, which scales its pictures to a tiny area."""
    if str(checkout / "core/tests") not in sys.path:
        sys.path.append(str(checkout / "core/tests"))
    import media_pipelines

    with pytest.MonkeyPatch.context() as patch:
        media_pipelines.small_pictures(patch)
        yield media_pipelines.build("QwenImageEditPlusPipeline", tmp_path_factory.mktemp("qwen-image-edit"))
