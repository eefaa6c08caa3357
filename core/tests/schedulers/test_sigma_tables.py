from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

from omni_rl.errors import ModelError
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler

FLUX = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scheduler(steps: int = 4, shift: float = 3.0) -> FlowMatchSDEDiscreteScheduler:
    made = FlowMatchSDEDiscreteScheduler(shift=shift)
    made.set_timesteps(steps)
    return made


# ------------------------------------------------------------------------------------------------------------- tables


def test_sd3_table_is_the_closed_form_and_is_not_shifted_once_more(sd3_sigmas):
    for steps in (1, 2, 10, 28, 50):
        made = scheduler(steps)
        np.testing.assert_allclose(made.sigmas.numpy(), sd3_sigmas(steps), atol=1e-6)
        np.testing.assert_array_equal(made.timesteps.numpy(), made.sigmas[:-1].numpy() * np.float32(1000))
    golden = [1.0, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0.0]
    np.testing.assert_allclose(scheduler(10).sigmas.numpy(), golden, atol=5e-5)


@pytest.mark.parametrize("image_tokens", [256, 1024, 4096])
def test_flux_table_is_the_closed_form(flux_sigmas, image_tokens):
    mu = 0.5 + 0.65 * (image_tokens - 256) / 3840
    for steps in (1, 4, 28):
        made = FlowMatchSDEDiscreteScheduler(**FLUX)
        made.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        np.testing.assert_allclose(made.sigmas.numpy(), flux_sigmas(steps, image_tokens), atol=1e-6)


def test_diffusers_pipelines_can_set_custom_sigmas_and_timesteps():
    """``retrieve_timesteps`` looks for these arguments by name in the signature."""
    made = FlowMatchSDEDiscreteScheduler(**FLUX)
    timesteps, steps = retrieve_timesteps(made, sigmas=[1.0, 0.6, 0.2], mu=1.0)
    assert (len(timesteps), steps) == (3, 3)
    made = FlowMatchSDEDiscreteScheduler()
    timesteps, _ = retrieve_timesteps(made, sigmas=[1.0, 0.6], mu=None)
    assert timesteps.tolist() == pytest.approx([1000.0, 600.0])


def test_set_table_is_exact_and_unshifted():
    source = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    source.set_timesteps(10)
    made = scheduler(4, shift=3.0)
    made.step(draw(1, 2), made.timesteps[0], draw(1, 2))
    made.set_table(source.timesteps, source.sigmas)
    assert torch.equal(made.sigmas, source.sigmas)
    assert torch.equal(made.timesteps, source.timesteps.float())
    assert made.num_inference_steps == 10
    assert made.step_index is None
    source.sigmas[0] = 0.5
    assert made.sigmas[0] > 0.99
    out = made.step(draw(1, 1000), source.timesteps[0], draw(1, 1000, seed=1))
    assert out.log_prob.isfinite().all()
    assert out.std_dev_t.item() == pytest.approx(0.7 / math.sqrt(1 - made.sigmas[1].item()), rel=1e-4)


@pytest.mark.parametrize(
    ("timesteps", "sigmas"),
    [
        ([1000.0, 500.0], [1.0, 0.5]),
        ([[1000.0, 500.0]], [1.0, 0.5, 0.0]),
        ([1000.0, 1000.0], [1.0, 0.5, 0.0]),
        ([0.0, 500.0], [0.0, 0.5, 1.0]),
        ([1000.0, 500.0], [1.0, 1.0, 0.0]),
        ([1000.0, 500.0], [1.0, math.nan, 0.0]),
        ([999.0, 500.0], [14.6, 1.6, 0.0]),
    ],
    ids=["short", "2-d", "equal timesteps", "rising", "standing", "nan", "not flow"],
)
def test_set_table_refuses_what_is_not_a_flow_table(timesteps, sigmas):
    with pytest.raises(ModelError):
        scheduler().set_table(torch.tensor(timesteps), torch.tensor(sigmas))


# ------------------------------------------------------------------------------------------------------------- config


def test_config_of_another_scheduler_class_is_refused_by_name_because_flow_shift_would_be_dropped(tmp_path):
    source = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    with pytest.raises(ModelError, match=r"(?s)flow_shift.*set_table"):
        FlowMatchSDEDiscreteScheduler.from_config(source.config)
    source.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"(?s)UniPCMultistepScheduler.*flow_shift.*set_table"):
        FlowMatchSDEDiscreteScheduler.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="shfit"):
        FlowMatchSDEDiscreteScheduler.from_config(FlowMatchEulerDiscreteScheduler().config, shfit=3.0)


def test_model_that_does_not_predict_velocity_is_refused():
    for other in (EulerDiscreteScheduler(), DPMSolverMultistepScheduler(prediction_type="v_prediction")):
        with pytest.raises(ModelError, match=other.config.prediction_type):
            FlowMatchSDEDiscreteScheduler.from_config(other.config)
    made = FlowMatchSDEDiscreteScheduler.from_config({"shift": 2.0, "prediction_type": "flow_prediction"})
    assert made.config.shift == 2.0


@pytest.mark.parametrize("key", ["invert_sigmas", "stochastic_sampling"])
def test_settings_that_the_steps_cannot_honour_are_refused(key):
    with pytest.raises(ModelError, match=key):
        FlowMatchSDEDiscreteScheduler.from_config(FlowMatchEulerDiscreteScheduler(**{key: True}).config)
    with pytest.raises(ModelError, match=key):
        FlowMatchSDEDiscreteScheduler(**{key: True})


def test_euler_config_gives_the_same_table_and_survives_saving(tmp_path, table):
    config, arguments = table
    euler = FlowMatchEulerDiscreteScheduler(**config)
    euler.save_pretrained(tmp_path / "euler")
    ours = FlowMatchSDEDiscreteScheduler.from_pretrained(tmp_path / "euler")
    ours.save_pretrained(tmp_path / "ours")
    again = FlowMatchSDEDiscreteScheduler.from_pretrained(tmp_path / "ours")
    for made in (euler, ours, again):
        made.set_timesteps(**arguments)
    for made in (ours, again):
        assert torch.equal(made.sigmas, euler.sigmas)
        assert torch.equal(made.timesteps, euler.timesteps)
        assert made.config.shift == euler.config.shift
