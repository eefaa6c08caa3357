"""Runs whose rows bring pictures, and runs whose rows differ in size, through the whole loop and with the gate on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train
from omni_rl.errors import ConfigError
from omni_rl_tiny import pipelines
from omni_rl_tiny.pipelines import pictures

pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # diffusers
]


def recipe(
    model: Path, data: dict[str, Any], call: dict[str, Any], prompts: int, **train_section: Any
) -> dict[str, Any]:
    return {
        "model": {"path": str(model), "lora": {"rank": 2, "alpha": 4}},
        "algorithm": {"name": "flow_grpo"},
        "rollout": {"steps": 4, "prompts": prompts, "group_size": 3, "batch_size": 6, "call": call},
        "reward": "brightness",
        "data": data,
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3, **train_section},
        "validation": {"every": 0},
        "device": "cpu",
    }


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    "architecture", ["FluxKontextPipeline", "QwenImageEditPlusPipeline", "WanImageToVideoPipeline"]
)
def test_pictures_to_edit_and_first_frames(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second row's pictures have another size: its samples are drawn and replayed by themselves."""
    pictures.small_pictures(monkeypatch)
    model = pipelines.build(architecture, tmp_path / "model")
    several = architecture == "QwenImageEditPlusPipeline"
    names = [pictures.picture(tmp_path / f"{i}.png", (32, 32) if i < 2 else (48, 24), i) for i in range(4)]
    rows = [
        {"prompt": prompt, "source": names[2 * i : 2 * i + 2] if several else names[2 * i]}
        for i, prompt in enumerate(("a sign that says hello", "the world"))
    ]
    data = {"path": lines(tmp_path / "p.jsonl", rows), "media": {"image": "source"}}
    run = train(recipe(model, data, pipelines.CALLS[architecture], prompts=2), run_dir=tmp_path / "run")
    assert [row for row in run.gate if row.verdict == "fail"] == []
    assert {row.name: row.detail for row in run.gate}["encoders"] == "not called in replay"
    assert [row["actor/updates"] for row in run.metrics] == [1, 1]
    assert all(row["actor/grad_norm"] > 0 and math.isfinite(row["actor/grad_norm"]) for row in run.metrics)
    assert run.metrics[0]["actor/logp_absdiff_max"] < 1e-5
    clips = sorted((tmp_path / "run/videos").glob("*.mp4")) if (tmp_path / "run/videos").exists() else []
    assert bool(clips) == (architecture == "WanImageToVideoPipeline")


def test_micro_batches_of_several_sizes_give_the_same_updates(tmp_path: Path) -> None:
    model = pipelines.build("QwenImagePipeline", tmp_path / "model")
    sizes = [(16, 32), (32, 16), (16, 32), (16, 16)]
    rows = [{"prompt": f"a sign {i}", "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    data = {"path": lines(tmp_path / "p.jsonl", rows), "call": ["height", "width"]}
    call = {"true_cfg_scale": 4.0, "negative_prompt": " "}
    runs = [
        train(
            recipe(model, data, call, prompts=4, micro_batch_size=size, mini_batch_prompts=2),
            run_dir=tmp_path / f"run{size}",
        )
        for size in (2, 12)
    ]
    for few, many in zip(*(run.metrics for run in runs), strict=True):
        assert few["actor/updates"] == many["actor/updates"] == 2
        assert few["actor/grad_norm"] == pytest.approx(many["actor/grad_norm"], rel=1e-4)
    shapes = {tuple(s.trajectory["media", "image"].shape[:2]) for s in runs[0].samples if s.trajectory is not None}
    assert shapes == set(sizes)


def test_an_argument_that_the_pipeline_does_not_have(tmp_path: Path) -> None:
    model = pipelines.build("QwenImagePipeline", tmp_path / "model")
    (tmp_path / "a.png").touch()
    data = {"path": lines(tmp_path / "p.jsonl", [{"prompt": "a", "source": "a.png"}]), "media": {"image": "source"}}
    with pytest.raises(ConfigError, match=r"data\.media: QwenImagePipeline has no argument 'image'"):
        train(recipe(model, data, {}, prompts=1), run_dir=tmp_path / "run")
