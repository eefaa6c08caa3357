"""Core takes Euler steps; a pipeline whose scheduler takes others is told so, and how far the samples are apart."""

from __future__ import annotations

import json
import shutil

import diffusers
import pytest


def with_scheduler(folder, target, name: str, **settings):
    """A copy of a model folder with another scheduler."""
    shutil.copytree(folder, target)
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.save_pretrained(target / "scheduler")
    index = json.loads((target / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", name]
    (target / "model_index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize(
    ("name", "settings", "verdict"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}, "fail"),
        ("FlowMatchLCMScheduler", {"shift": 3.0}, "fail"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "info"),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, None),
    ],
    ids=["stochastic Euler", "LCM", "UniPC", "Euler"],
)
def test_the_pipelines_own_solver_is_named(name, settings, verdict, judged, tiny_folder, tmp_path):
    folder = with_scheduler(tiny_folder("StableDiffusion3Pipeline"), tmp_path / "model", name, **settings)
    rows = judged("StableDiffusion3Pipeline", model={"path": str(folder)})
    assert rows["own loop"].verdict == "ok"
    if verdict is None:
        assert "solver" not in rows
        return
    assert rows["solver"].verdict == verdict
    assert rows["solver"].detail.startswith(f"Euler steps replace {name}; final latents differ from its own by ")
    distance = float(rows["solver"].detail.partition("its own by ")[2].split(" ")[0].rstrip("."))
    assert distance > 1e-3
    assert ("draws noise of its own" in rows["solver"].detail) == (verdict == "fail")
