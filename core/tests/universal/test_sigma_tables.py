"""The schedule is what the pipeline's own scheduler makes of its published settings, and a rollout uses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from model_cases import GUIDED, Case, unguided

from omni_rl.errors import ModelError
from omni_rl.model.loading import from_pipe
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler

PUBLISHED = Path(__file__).parent / "published"
SCHEDULERS = {
    "WanPipeline": (UniPCMultistepScheduler, "wan2.1-t2v-1.3b.json", 1.0),
    "SanaPipeline": (DPMSolverMultistepScheduler, "sana-1600m-1024px.json", 0.999),
}
"""Class, published settings, and where even sigmas start."""


def published(architecture: str, **changes: object) -> dict[str, object]:
    return {**json.loads((PUBLISHED / SCHEDULERS[architecture][1]).read_text()), **changes}


@pytest.fixture
def with_scheduler(tiny_folder, tmp_path):
    """``with_scheduler("WanPipeline", flow_shift=5.0)``: the tiny pipeline with the published scheduler, so changed."""

    def make(architecture: str, **changes: object) -> Case:
        folder = tmp_path / "pipeline"
        shutil.copytree(tiny_folder(architecture), folder, dirs_exist_ok=True)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(published(architecture, **changes)))
        return Case(architecture, folder, unguided(GUIDED[architecture]), guided=False)

    return make


@pytest.mark.parametrize("shift", [3.0, 5.0])
@pytest.mark.parametrize("architecture", list(SCHEDULERS))
def test_published_settings_keep_their_table(architecture, shift, with_scheduler):
    """Wan's 480p and 720p models shift by 3 and by 5."""
    cls, _, first = SCHEDULERS[architecture]
    assembly = with_scheduler(architecture, flow_shift=shift).fresh()
    state = assembly.hooks.prepare_encode(model=assembly.model, requests=assembly.requests())
    shapes = {"x": state.x["x"].shape[1:]}
    for steps in (1, 2, 4, 20, 50):
        own = cls.from_config(published(architecture, flow_shift=shift))
        own.set_timesteps(steps)
        table = assembly.hooks.set_timesteps(
            model=assembly.model,
            steps=steps,
            shapes=shapes,
            conditioning=state.conditioning,
            call=state.requests[0].call,
        )["x"]
        assert torch.equal(table.sigmas, own.sigmas.float())
        assert torch.equal(table.timesteps, own.timesteps.float())
        assert table.sigmas[-1] == 0
        even = first - 0.999 * torch.arange(steps) / steps
        torch.testing.assert_close(table.sigmas[:-1], shift * even / (1 + (shift - 1) * even), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", list(SCHEDULERS))
def test_a_rollout_uses_it(architecture, with_scheduler):
    cls, _, _ = SCHEDULERS[architecture]
    assembly = with_scheduler(architecture, flow_shift=5.0).fresh(rollout={"steps": 6})
    own = cls.from_config(published(architecture, flow_shift=5.0))
    own.set_timesteps(6)
    batch = assembly.batch()
    assert torch.equal(batch["sigmas"], own.sigmas.float()[:-1].expand(len(batch), -1))  # all steps but the last
    assert torch.equal(batch["timesteps"], own.timesteps.float()[:-1].expand(len(batch), -1))
    build = assembly.hooks.build_scheduler
    state = assembly.hooks.prepare_encode(model=assembly.model, requests=assembly.requests())
    scheduler = build(model=assembly.model, table=state.table)
    assert torch.equal(scheduler.sigmas, own.sigmas.float())


@pytest.mark.parametrize("architecture", list(SCHEDULERS))
def test_from_config_across_classes_is_refused(architecture):
    """It would drop flow_shift without a word."""
    with pytest.raises(ModelError, match=r"FlowMatchSDEDiscreteScheduler does not know .*flow_shift"):
        FlowMatchSDEDiscreteScheduler.from_config(published(architecture))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("architecture", list(SCHEDULERS))
def test_a_scheduler_that_predicts_no_velocity_is_refused(architecture, prediction, with_scheduler):
    with pytest.raises(
        ModelError, match=f"{architecture} with .* predicts '{prediction}', not a flow-matching velocity"
    ):
        with_scheduler(architecture, prediction_type=prediction).fresh()


def test_a_table_of_another_process_is_refused(with_scheduler):
    """Velocities, but noise levels of a diffusion process: they do not lie in [0, 1]."""
    assembly = with_scheduler("SanaPipeline", use_flow_sigmas=False).fresh()
    with pytest.raises(ModelError, match="sigmas must decrease strictly from at most 1"):
        assembly.draw(assembly.requests())


def test_a_pipeline_without_a_scheduler_is_refused(cases, tmp_path):
    pipe = cases("FluxPipeline", False).fresh().model.pipe
    pipe.scheduler = None
    with pytest.raises(ModelError, match="FluxPipeline has no scheduler"):
        from_pipe(pipe, path=tmp_path, device=torch.device("cpu"))
