"""Every architecture that has a tiny pipeline, without a line of its own: the verdicts of docs/coverage.md are true."""

from __future__ import annotations

import importlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import verdicts

from omni_rl import train
from omni_rl_tiny import pipelines

pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what some pipelines import from diffusers itself
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # and how they say fp32
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),  # of layers that tiny models leave out
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),  # tensors given to NumPy
]

ROOT = Path(__file__).parents[3]
RECORD = json.loads((ROOT / "benchmarks/results/universal_coverage.json").read_text())
ARCHITECTURES = verdicts.architectures()
BRIGHTER = {  # architecture -> iterations until the rise stands out from the spread of one iteration
    "StableDiffusion3Pipeline": 10,  # an image, two passes of guidance
    "SanaPipeline": 10,  # an image, another scheduler than Euler's
    "ZImagePipeline": 20,  # an image, lists of embeddings
    "AuraFlowPipeline": 10,  # an image, timesteps between 0 and 1
    "OmniGenPipeline": 10,  # an image, a denoiser that reads the text
    "HunyuanVideoPipeline": 10,  # a video
}
IN_CI = {"LTX2Pipeline", "MochiPipeline", "OmniGenPipeline", "QwenImageEditPlusPipeline"}
"""The others' turn is in the full tier."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "architecture", [pytest.param(n, marks=() if n in IN_CI else pytest.mark.full) for n in ARCHITECTURES]
)
def test_the_recorded_verdict(architecture, tmp_path):
    recorded = RECORD["pipelines"][architecture]
    (tmp_path / "runs").mkdir()
    verdict = verdicts.judge(verdicts.subject(architecture, tmp_path / "model"), tmp_path / "runs")
    found = (verdict.verdict, _without_numbers(verdict.reason), list(verdict.media))
    assert found == (recorded["verdict"], _without_numbers(recorded["reason"]), recorded["media"]), verdict.reason


def _without_numbers(sentence: str) -> str:
    return re.sub(r"\d[\d.e+-]*", "#", sentence)


def test_many_pass():
    passing = [name for name in ARCHITECTURES if RECORD["pipelines"][name]["verdict"] == "pass"]
    assert len(passing) >= 25
    assert {kind for name in passing for kind in RECORD["pipelines"][name]["media"]} == {"image", "video", "audio"}


@pytest.mark.skipif(version("diffusers") != RECORD["versions"]["diffusers"], reason="recorded for another diffusers")
def test_the_recorded_facts():
    """About every pipeline that the installed diffusers exports, those without a verdict included; which these are
    depends on what is installed beside it.
    """
    found = importlib.import_module("coverage_table").all_facts()
    assert [name for name in found.keys() - RECORD["pipelines"].keys() if found[name]["flow_matching"]] == []
    for name in found.keys() & RECORD["pipelines"].keys():
        recorded = RECORD["pipelines"][name]
        assert found[name] == {
            key: recorded[key] for key in ("schedulers", "flow_matching", "needs_input", "noised_input")
        }, name


@pytest.mark.full
@pytest.mark.parametrize("architecture", BRIGHTER)
def test_brightness_rises(architecture, tiny_folder, tmp_path):
    tiny = verdicts.Subject(tiny_folder(architecture), pipelines.CALLS[architecture])
    config = verdicts.recipe(tiny, tmp_path, lora=False)
    config["rollout"] |= {"group_size": 8, "batch_size": 16, "sde": {"noise_level": 1.0}}
    config["train"] |= {"iterations": BRIGHTER[architecture], "lr": 3e-3, "micro_batch_size": 16}
    config |= {"gate": "off", "seed": 0, "algorithm": {"name": "flow_grpo", "clip_range": 1e-3}}
    run = train(config, run_dir=tmp_path / "run")
    means = [row["reward/mean"] for row in run.metrics]
    spread = [row["reward/std"] for row in run.metrics]
    assert sum(means[-3:]) / 3 - sum(means[:3]) / 3 > max(spread[:3]), means
