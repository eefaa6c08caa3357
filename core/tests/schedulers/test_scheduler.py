from __future__ import annotations

import copy
import functools
import inspect
import math
import types

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from omni_rl.errors import UserError
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler, FlowMatchSDEDiscreteSchedulerOutput
from omni_rl.schedulers.randomness import ForbiddenGenerator
from omni_rl.schedulers.transition import transition


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scheduler(steps: int = 4, shift: float = 3.0) -> FlowMatchSDEDiscreteScheduler:
    made = FlowMatchSDEDiscreteScheduler(shift=shift)
    made.set_timesteps(steps)
    return made


# -------------------------------------------------------------------------------------------------------------- steps


def test_noise_level_0_is_the_euler_scheduler_to_the_bit(sde_type, table):
    config, arguments = table
    euler, ours = FlowMatchEulerDiscreteScheduler(**config), FlowMatchSDEDiscreteScheduler(**config)
    euler.set_timesteps(**arguments)
    ours.set_timesteps(**arguments)
    theirs = mine = draw(2, 3, 4, 4, seed=1)
    for i, t in enumerate(euler.timesteps):
        v = draw(2, 3, 4, 4, seed=i + 2)
        theirs = euler.step(v, t, theirs, return_dict=False)[0]
        out = ours.step(v, t, mine, noise_level=0.0, sde_type=sde_type, generator=ForbiddenGenerator())
        mine = out.prev_sample
        assert torch.equal(mine, theirs)
        assert out.log_prob.tolist() == [0.0, 0.0]
        assert ours.step_index == euler.step_index


def test_begin_index_is_honoured_as_by_the_euler_scheduler():
    euler, ours = FlowMatchEulerDiscreteScheduler(shift=3.0), scheduler(6)
    euler.set_timesteps(6)
    for made in (euler, ours):
        made.set_begin_index(2)
    x, v = draw(1, 5, seed=1), draw(1, 5, seed=2)
    expected = euler.step(v, euler.timesteps[0], x).prev_sample  # the index decides, not the timestep
    assert torch.equal(ours.step(v, ours.timesteps[0], x, noise_level=0.0).prev_sample, expected)
    assert ours.step_index == 3


def test_reported_std_is_the_empirical_std_of_1e5_draws_for_every_type(reference, sde_type):
    made = scheduler(10)
    x, v = torch.full((1, 100_000), 0.4), torch.full((1, 100_000), -1.3)
    for i in (0, 4, 8):  # cps is deterministic at the last step
        out = made.sample_previous_step(
            x, v, made.timesteps[i], torch.Generator().manual_seed(i), sde_type=sde_type, return_sqrt_dt=True
        )
        expected = reference(0.4, -1.3, made.sigmas.tolist(), i, 0.7, sde_type)
        drawn, std_dev_t, sqrt_dt = out[0], out[3], out[4]
        std = std_dev_t * sqrt_dt if sde_type == "sde" else std_dev_t
        assert drawn.double().std().item() == pytest.approx(expected.std, rel=0.01)
        assert std.item() == pytest.approx(expected.std, rel=1e-5)
        assert drawn.double().mean().item() == pytest.approx(expected.mean, abs=5 * expected.std / math.sqrt(1e5))
        assert std_dev_t.item() == pytest.approx(expected.std_dev_t, rel=1e-5)


def test_trajectory_replays_to_the_bit_from_the_scheduler_and_from_stored_sigmas_alone(sde_type):
    """A bf16 model, its table gone by the time of replay: the ratio is exactly 1, at every step, in every row."""
    made, x, stored = scheduler(5), draw(3, 4, 8, 8, seed=1), []
    for i, t in enumerate(made.timesteps):
        v = draw(3, 4, 8, 8, seed=i + 2, dtype=torch.bfloat16)
        drawn = made.sample_previous_step(x, v, t, torch.Generator().manual_seed(i), sde_type=sde_type)
        out = FlowMatchSDEDiscreteSchedulerOutput(*drawn)
        assert out.prev_sample.dtype == torch.float32
        stored.append((x, v, t, made.sigmas[i].clone(), made.sigmas[i + 1].clone(), out))
        x = out.prev_sample
    for x, v, t, _, _, out in stored:
        scored = made.sample_previous_step(x, v, t, prev_sample=out.prev_sample, sde_type=sde_type)
        assert torch.equal(scored[1], out.log_prob)
    made.set_timesteps(9)
    for x, v, _, sigma, sigma_next, out in stored:
        replay = transition(x, v, sigma.expand(3), sigma_next.expand(3), 0.7, sde_type)
        assert (replay.log_prob(out.prev_sample) - out.log_prob).exp().tolist() == [1.0, 1.0, 1.0]


def test_rows_at_different_timesteps_are_scored_as_if_each_were_alone(sde_type):
    made = scheduler(5)
    x, v, following = (draw(3, 4, 4, seed=seed) for seed in (1, 2, 3))
    order = made.timesteps[[3, 0, 2]]
    together = made.sample_previous_step(x, v, order, prev_sample=following, sde_type=sde_type)
    for row, t in enumerate(order):
        one = slice(row, row + 1)
        for timestep in (t, t.item()):
            alone = made.sample_previous_step(x[one], v[one], timestep, prev_sample=following[one], sde_type=sde_type)
            for field, expected in zip(alone, together, strict=True):
                assert torch.equal(field, expected[one])


def test_timestep_none_is_the_next_step_and_does_not_advance():
    made, x, v = scheduler(3), draw(1, 4, seed=1), draw(1, 4, seed=2)
    with pytest.raises(UserError, match="not started"):
        made.sample_previous_step(x, v)
    made.step(v, made.timesteps[0], x)
    for _ in range(2):
        mean = made.sample_previous_step(x, v)[2]
        assert torch.equal(mean, made.sample_previous_step(x, v, made.timesteps[1])[2])
    assert made.step_index == 1


def test_a_table_ends():
    made, x = scheduler(2), draw(1, 4)
    for t in made.timesteps:
        made.step(x, t, x)
    with pytest.raises(UserError, match="all taken"):
        made.step(x, made.timesteps[1], x)


def test_latents_are_fp32_whatever_goes_in():
    made = scheduler()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        out = made.sample_previous_step(draw(2, 3, dtype=dtype), draw(2, 3, dtype=dtype), made.timesteps[0])
        assert {field.dtype for field in out} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_step_returns_the_models_dtype_and_computes_in_fp32(dtype, sde_type):
    """As diffusers' own schedulers: a pipeline passes the next latents to a model of that dtype."""
    made, x, v = scheduler(), draw(2, 3, seed=1), draw(2, 3, seed=2, dtype=dtype)
    inside = made.sample_previous_step(x, v, made.timesteps[0], torch.Generator().manual_seed(0), sde_type=sde_type)
    out = made.step(v, made.timesteps[0], x, generator=torch.Generator().manual_seed(0), sde_type=sde_type)
    assert out.prev_sample.dtype == dtype
    assert torch.equal(out.prev_sample, inside[0].to(dtype))
    for field, own in zip((out.log_prob, out.prev_sample_mean, out.std_dev_t), inside[1:], strict=True):
        assert field.dtype == torch.float32
        assert torch.equal(field, own)


def test_gradient_of_a_fresh_draws_log_prob_is_the_score_and_not_zero():
    """Scored at a draw that is not detached, x' - mean is a constant and the policy gradient vanishes."""
    made, x, v = scheduler(), draw(1, 6, seed=1), draw(1, 6, seed=2).requires_grad_()
    drawn, log_prob, _, _ = made.sample_previous_step(x, v, made.timesteps[1], torch.Generator().manual_seed(0))
    (fresh,) = torch.autograd.grad(log_prob.sum(), v)
    (stored,) = torch.autograd.grad(
        made.sample_previous_step(x, v, made.timesteps[1], prev_sample=drawn.detach())[1].sum(), v
    )
    assert torch.equal(fresh, stored)
    assert fresh.any()


def test_log_prob_of_cps_is_the_density_unless_the_peers_convention_is_named():
    made, x, v, following = scheduler(), *(draw(2, 6, seed=seed) for seed in (1, 2, 3))
    arguments = {"prev_sample": following, "sde_type": "cps"}
    _, density, mean, std = made.sample_previous_step(x, v, made.timesteps[1], **arguments)
    expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(following).mean(1)
    torch.testing.assert_close(density, expected)
    peers = made.sample_previous_step(x, v, made.timesteps[1], **arguments, log_prob_type="squared_error")[1]
    torch.testing.assert_close(peers, -(following - mean).square().mean(1))


def test_output_forms():
    made, x = scheduler(), draw(2, 3, 4)
    out = made.step(x, made.timesteps[:1].expand(2), x, return_logprobs=False)
    assert isinstance(out, FlowMatchSDEDiscreteSchedulerOutput)
    assert out.log_prob is None
    assert out.std_dev_t.shape == (2, 1, 1)
    fields = made.step(x, made.timesteps[1], x, return_dict=False)
    assert [tuple(field.shape) for field in fields] == [(2, 3, 4), (2,), (2, 3, 4), (2, 1, 1)]
    sqrt_dt = made.sample_previous_step(x, x, made.timesteps[1:3], return_sqrt_dt=True)[4]
    torch.testing.assert_close(sqrt_dt, (made.sigmas[1:3] - made.sigmas[2:4]).sqrt())


def test_public_signatures_are_those_that_callers_of_the_peers_scheduler_know():
    step = "model_output timestep sample s_churn s_tmin s_tmax s_noise generator per_token_timesteps return_dict"
    step += " noise_level prev_sample sde_type return_logprobs"
    previous = "sample model_output timestep generator per_token_timesteps noise_level prev_sample sde_type"
    previous += " return_logprobs return_sqrt_dt"
    for method, names in (("step", step), ("sample_previous_step", previous)):
        parameters = inspect.signature(getattr(FlowMatchSDEDiscreteScheduler, method)).parameters
        assert list(parameters) == ["self", *names.split(), "log_prob_type"]
        assert (parameters["noise_level"].default, parameters["sde_type"].default) == (0.7, "sde")
    assert inspect.signature(FlowMatchSDEDiscreteScheduler) == inspect.signature(FlowMatchEulerDiscreteScheduler)
    assert list(inspect.signature(FlowMatchSDEDiscreteSchedulerOutput).parameters) == [
        "prev_sample",
        "log_prob",
        "prev_sample_mean",
        "std_dev_t",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"s_churn": 0.1}, "s_churn"),
        ({"s_noise": 1.1}, "s_noise"),
        ({"s_tmax": 1.0}, "s_tmax"),
        ({"per_token_timesteps": torch.ones(1, 4)}, "per_token_timesteps"),
        ({"sde_type": "ode"}, "sde_type 'ode'"),
        ({"log_prob_type": "sum"}, "log_prob_type 'sum'"),
        ({"prev_sample": draw(2, 4, dtype=torch.bfloat16)}, "stored in fp32"),
        ({"prev_sample": draw(1, 4)}, "do not fit"),
        ({"noise_level": -1.0}, "out of range"),
        ({"timestep": 123.4}, "not in the table"),
        ({"timestep": 0}, "not in the table"),
        ({"timestep": torch.tensor([1000.0, 500.0])}, "one timestep for all rows"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_does_not_advance(arguments, words):
    made, x = scheduler(), draw(2, 4)
    with pytest.raises(ValueError, match=words):
        made.step(**{"model_output": x, "timestep": made.timesteps[0], "sample": x, **arguments})
    assert made.step_index in (None, 0)


# ---------------------------------------------------------------------------------------------------------- pipelines


EMBEDDINGS = {
    "prompt_embeds": (5, 16),
    "pooled_prompt_embeds": (8,),
    "negative_prompt_embeds": (5, 16),
    "negative_pooled_prompt_embeds": (8,),
}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    """A real Stable Diffusion 3 pipeline, tiny, with random weights."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )
    vae = AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=1, shift_factor=0.0)
    empty = {f"{kind}{suffix}": None for kind in ("text_encoder", "tokenizer") for suffix in ("", "_2", "_3")}
    made = StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **empty
    )
    made.set_progress_bar_config(disable=True)
    return made


def sample(pipeline: StableDiffusion3Pipeline, made: FlowMatchEulerDiscreteScheduler) -> torch.Tensor:
    pipeline.scheduler = made
    return pipeline(
        prompt_embeds=draw(2, 5, 16, seed=1),
        pooled_prompt_embeds=draw(2, 8, seed=2),
        negative_prompt_embeds=draw(2, 5, 16, seed=3),
        negative_pooled_prompt_embeds=draw(2, 8, seed=4),
        latents=draw(2, 4, 8, 8, seed=5),
        num_inference_steps=5,
        guidance_scale=4.0,
        height=8,
        width=8,
        output_type="latent",
    ).images


def with_recorded_steps(
    made: FlowMatchSDEDiscreteScheduler, records: list, **arguments
) -> FlowMatchSDEDiscreteScheduler:
    """``made``, its ``step`` called with ``arguments`` and written down."""

    def step(self, model_output, timestep, sample, **kwargs):
        out = FlowMatchSDEDiscreteScheduler.step(self, model_output, timestep, sample, **arguments)
        records.append((sample, model_output, timestep, out))
        return out.to_tuple()

    made.step = types.MethodType(step, made)
    return made


def test_a_diffusers_pipeline_samples_the_same_latents_at_noise_level_0(pipeline):
    ours = with_recorded_steps(FlowMatchSDEDiscreteScheduler(shift=3.0), [], noise_level=0.0)
    assert torch.equal(sample(pipeline, ours), sample(pipeline, FlowMatchEulerDiscreteScheduler(shift=3.0)))


def test_a_diffusers_pipeline_explores_and_its_steps_replay_to_the_bit(pipeline, sde_type):
    records: list = []
    made = with_recorded_steps(FlowMatchSDEDiscreteScheduler(shift=3.0), records, sde_type=sde_type)
    latents = sample(pipeline, made)
    assert not torch.allclose(latents, sample(pipeline, FlowMatchEulerDiscreteScheduler(shift=3.0)), atol=0.1)
    assert len(records) == 5
    for x, v, t, out in records:
        scored = made.sample_previous_step(x, v, t, prev_sample=out.prev_sample, sde_type=sde_type)
        assert torch.equal(scored[1], out.log_prob)


def test_a_diffusers_pipeline_runs_with_the_scheduler_as_it_is(pipeline):
    torch.manual_seed(0)
    first = sample(pipeline, FlowMatchSDEDiscreteScheduler(shift=3.0))
    torch.manual_seed(0)
    again = sample(pipeline, FlowMatchSDEDiscreteScheduler(shift=3.0))
    assert first.isfinite().all()
    assert torch.equal(first, again)


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_a_bf16_pipeline_takes_it_as_it_is(pipeline, level):
    """Without noise, the latents are those of diffusers' own scheduler, which rounds dt x velocity to bf16."""
    whole = copy.deepcopy(pipeline).to(torch.bfloat16)
    given = {name: draw(2, *shape, seed=3, dtype=torch.bfloat16) for name, shape in EMBEDDINGS.items()}

    def final(made: FlowMatchEulerDiscreteScheduler) -> torch.Tensor:
        whole.scheduler = made
        start = draw(2, 4, 8, 8, seed=9, dtype=torch.bfloat16)
        return whole(**given, num_inference_steps=3, latents=start, height=8, width=8, output_type="latent").images

    ours = FlowMatchSDEDiscreteScheduler(shift=3.0)
    ours.step = functools.partial(ours.step, noise_level=level, generator=torch.Generator().manual_seed(0))
    latents = final(ours)
    assert latents.dtype == torch.bfloat16
    own = final(FlowMatchEulerDiscreteScheduler(shift=3.0)).float()
    near = float((latents.float() - own).abs().max() / own.abs().max()) < 0.02
    assert near == (level == 0)
