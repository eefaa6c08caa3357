"""What a run's report says about the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omni_rl import train

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("guided", [True, False])
def test_a_guided_run_is_looked_at_with_guidance_on_and_off(
    recipe: dict[str, Any], tmp_path: Path, guided: bool
) -> None:
    """What was trained with guidance may have learned to do without it, or to need it: scores of both stand there."""
    recipe["rollout"]["call"] |= {"true_cfg_scale": 4.0, "negative_prompt": " "} if guided else {}
    train(recipe, ["train.iterations=1"], tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert ("after, guidance off" in page) is guided
