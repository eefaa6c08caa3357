"""`omni-rl conformance` on the packages of this repository, as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAULTY = """
from omni_rl.rewards.builtin import Brightness

class ByPlace(Brightness):
    def score(self, batch):
        return [score + i for i, score in enumerate(super().score(batch))]
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["omni-rl-flow-grpo"], "ok       micro batches give the same updates"),
        (["omni-rl-diffusion-nft"], "skipped  the first update is on policy"),
        (["omni-rl-ocr", "--key", "ocr"], "ok       order does not matter"),
        (["omni-rl-qwen-image", "--model", "tiny-qwen-signs"], "ok       without noise samples are the pipelines own"),
        (["omni-rl-sd3"], "ok       neighbours do not matter"),
        pytest.param(["omni-rl-flux"], "ok       neighbours do not matter", marks=pytest.mark.full),
        pytest.param(["omni-rl-ltx2"], "ok       neighbours do not matter", marks=pytest.mark.full),
        pytest.param(["omni-rl-qwen-image-edit"], "ok       replay calls no encoder", marks=pytest.mark.full),
        pytest.param(["omni-rl-wan"], "ok       neighbours do not matter", marks=pytest.mark.full),
        pytest.param(["omni-rl-z-image"], "ok       neighbours do not matter", marks=pytest.mark.full),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_package_of_ours_conforms(call: Callable[..., Any], words: list[str], says: str) -> None:
    outcome = call("conformance", *words)
    assert outcome.code == 0, outcome.out + outcome.err
    assert f"{words[0]} 0.1.0 conforms: " in outcome.out
    assert says in outcome.out


def test_a_model_without_a_pipeline_exits_2(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_RL_DISABLE", "omni-rl-tiny")
    outcome = call("conformance", "omni-rl-qwen-image")
    assert outcome.code == 2
    assert "the suite needs a QwenImagePipeline" in outcome.out
    assert "pip install omni-rl-tiny" in outcome.out
    assert outcome.out.endswith("no suite ran for model QwenImagePipeline\n")


def test_a_package_that_is_not_there_exits_2(call: Callable[..., Any]) -> None:
    outcome = call("conformance", "omni-rl-orc")
    assert outcome.code == 2
    assert "Did you mean 'omni-rl-ocr'" in outcome.err


@pytest.mark.ci
def test_a_failure_shows_values_reason_and_advice(
    spawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, where pytest has not prepared the suites' assertions beforehand."""
    metadata = tmp_path / "omni_rl_faulty-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: omni-rl-faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[omni_rl.rewards]\nf = faulty:ByPlace\n[omni_rl.contract]\n2 = faulty\n"
    )
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = spawn("conformance", "omni-rl-faulty")
    assert outcome.code == 1, outcome.err
    failed = outcome.out.partition("FAILED   order does not matter\n")[2]
    assert "row: (found, expected)" in failed
    assert "Left contains 6 more items" in failed
    assert "Scores follow their samples if the batch is reordered." in failed
    assert "Fix ``score``" in failed
    assert "omni-rl-faulty 1.0 does not conform: 8 ok, 2 FAILED" in outcome.out
