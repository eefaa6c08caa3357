from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rl.errors import UserError
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler, joint_log_prob
from omni_rl.schedulers.transition import transition

TYPES = ("sde", "cps", "dance_sde")
ETAS = (0.3, 0.7, 1.0)
SHAPE = (3, 4, 5)  # channels, height, width


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


# --------------------------------------------------------------------------------------- mean and standard deviation


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_mean_and_std_match_the_float64_reference(reference, sd3_sigmas, sde_type, eta, steps):
    table = np.float32(sd3_sigmas(steps)).astype(np.float64)
    x, v = draw(steps, *SHAPE, seed=1), draw(steps, *SHAPE, seed=2)
    ours = transition(x, v, rows(*table[:-1]), rows(*table[1:]), eta, sde_type)
    for i in range(steps):
        theirs = reference(x[i].double().numpy(), v[i].double().numpy(), table, i, eta, sde_type)
        np.testing.assert_allclose(ours.mean[i].numpy(), theirs.mean, rtol=1e-5, atol=2e-6)
        assert ours.std[i].item() == pytest.approx(theirs.std, rel=1e-6, abs=1e-7)
        assert ours.std_dev_t[i].item() == pytest.approx(theirs.std_dev_t, rel=1e-6, abs=1e-7)
        assert ours.sqrt_dt[i].item() == pytest.approx(math.sqrt(table[i] - table[i + 1]), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    sigma=st.floats(0.01, 0.99),
    fraction=st.floats(0.0, 0.99),
    eta=st.floats(0.0, 1.0),
    sde_type=st.sampled_from(TYPES),
    seed=st.integers(0, 2**31),
)
def test_any_step_matches_the_float64_reference(reference, sigma, fraction, eta, sde_type, seed):
    x, v = draw(1, 7, seed=seed, dtype=torch.float64), draw(1, 7, seed=seed + 1, dtype=torch.float64)
    table = (sigma, sigma * fraction)
    pair = (torch.tensor(value, dtype=torch.float64) for value in table)
    ours = transition(x, v, *pair, eta, sde_type)
    theirs = reference(x.numpy(), v.numpy(), table, 0, eta, sde_type)
    np.testing.assert_allclose(ours.mean.numpy(), theirs.mean, rtol=1e-9, atol=1e-9)
    assert ours.std.item() == pytest.approx(theirs.std, rel=1e-9, abs=1e-12)


def test_reported_std_and_mean_are_those_of_1e5_transitions(reference, sde_type):
    """Peers report dance_sde's figure with sqrt(-dt) included and sde's without; ``std`` is the true one for all."""
    x, v = torch.full((1, 100_000), 0.4), torch.full((1, 100_000), -1.3)
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.7), 0.7, sde_type)
    sampled = step.sample(draw(1, 100_000, seed=3)).double()
    expected = reference(0.4, -1.3, (0.8, 0.7), 0, 0.7, sde_type)
    assert sampled.std().item() == pytest.approx(expected.std, rel=0.01)  # standard error 0.22 %
    assert sampled.std().item() == pytest.approx(step.std.item(), rel=0.01)
    assert sampled.mean().item() == pytest.approx(expected.mean, abs=5 * expected.std / math.sqrt(100_000))


@pytest.mark.parametrize(("sde_type", "left"), [("sde", 0.723), ("dance_sde", 0.699), ("cps", 0.700)])
def test_noise_left_after_a_step_of_a_known_flow(sde_type, left):
    """All data at one point, exact velocity: x' must carry noise 0.7 at sigma 0.7. cps does, the others nearly."""
    data, noise = 0.25, draw(1, 100_000, seed=4)
    x, v = 0.2 * data + 0.8 * noise, noise - data
    sampled = transition(x, v, torch.tensor(0.8), torch.tensor(0.7), 0.7, sde_type).sample(draw(1, 100_000, seed=5))
    assert (sampled - 0.3 * data).std().item() == pytest.approx(left, rel=0.01)


def test_std_dev_t_keeps_the_peers_meaning_per_type():
    x = draw(1, 6)
    steps = {t: transition(x, x, torch.tensor(0.8), torch.tensor(0.7), 0.7, t) for t in TYPES}
    assert steps["sde"].std_dev_t.item() == pytest.approx(0.7 * math.sqrt(0.8 / 0.2))
    assert steps["cps"].std_dev_t.item() == pytest.approx(0.7 * math.sin(0.35 * math.pi))
    assert steps["dance_sde"].std_dev_t.item() == pytest.approx(0.7 * math.sqrt(0.1))


@pytest.mark.parametrize("sigma", [0.3, 0.9])
def test_sde_and_dance_sde_are_one_family(sigma):
    x, v = draw(2, 9, seed=1), draw(2, 9, seed=2)
    pair = torch.tensor(sigma, dtype=torch.float64), torch.tensor(sigma / 2, dtype=torch.float64)
    g = 0.5 * math.sqrt(sigma / (1 - sigma))
    ours, theirs = transition(x, v, *pair, 0.5, "sde"), transition(x, v, *pair, g, "dance_sde")
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.std, theirs.std)


def test_finite_at_every_step_of_tables_of_1_to_100_steps(sd3_sigmas, sde_type):
    """At sigma 1 peers divide by 1 - sigma, at sigma' 0 cps divides by a std of 0."""
    for steps in range(1, 101):
        table = rows(*sd3_sigmas(steps))
        x, v = draw(steps, 8, seed=steps), draw(steps, 8, seed=steps + 1).requires_grad_()
        step = transition(x, v, table[:-1], table[1:], 0.7, sde_type)
        next_x = step.sample(draw(steps, 8, seed=steps + 2)).detach()
        log_prob, kl = step.log_prob(next_x), step.kl(step)
        (gradient,) = torch.autograd.grad(log_prob.sum() + kl.sum(), v)
        for value in (step.mean, step.std, step.std_dev_t, log_prob, kl, gradient):
            assert value.isfinite().all()
        assert step.std.max() < 1.2  # an SDE step of 7 or 4000 times the noise in x_T is finite too, and useless


@pytest.mark.parametrize("start", [1.0, 1 - 1e-6, 1 - 2e-4, 0.99900001], ids=["Euler", "UniPC", "DPM", "DPM-unshifted"])
def test_sde_does_not_blow_up_where_other_schedulers_start_just_below_1(start):
    x, v = draw(1, 8, seed=1), draw(1, 8, seed=2)
    step = transition(x, v, torch.tensor(start), torch.tensor(0.978), 0.7, "sde", first=True)
    at_one = transition(x, v, torch.tensor(1.0), torch.tensor(0.978), 0.7, "sde")
    torch.testing.assert_close(step.std, at_one.std, rtol=0.03, atol=0)
    torch.testing.assert_close(step.mean, at_one.mean, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("shift", "steps", "expected"), [(12.0, 100, 24.127), (25.278, 50, 24.636)])
def test_only_the_first_step_of_a_table_uses_the_next_sigma(shift, steps, expected):
    """At a high shift the second sigma is above 0.9989, too: there the formula holds as it is."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    table = shift * even / (1 + (shift - 1) * even)
    x, v = draw(2, 8, seed=1).double(), draw(2, 8, seed=2).double()
    step = transition(x, v, table[:2], table[1:3], 0.7, "sde", first=torch.tensor([True, False]))
    assert step.std_dev_t.flatten().tolist() == pytest.approx(
        [0.7 / math.sqrt(1 - float(table[1])), expected], rel=1e-4
    )
    scheduler = FlowMatchSDEDiscreteScheduler()
    scheduler.set_table(1000 * table[:-1], table)
    second = scheduler.sample_previous_step(x.float(), v.float(), scheduler.timesteps[1])
    assert second[-1].flatten().tolist() == pytest.approx([expected, expected], rel=1e-3)


# ------------------------------------------------------------------------------------------------- deterministic rows


@settings(max_examples=100, deadline=None)
@given(
    sigma=st.floats(0.0078125, 1.0, width=32),
    fraction=st.floats(0.0, 0.99),
    sde_type=st.sampled_from(TYPES),
    seed=st.integers(0, 2**31),
)
def test_noise_level_0_is_the_euler_step_to_the_bit(sigma, fraction, sde_type, seed):
    x, v = draw(3, 11, seed=seed), draw(3, 11, seed=seed + 1)
    now, following = torch.tensor(sigma), torch.tensor(sigma * fraction)
    euler = x + (following - now) * v
    for eta in (0.0, rows(0.0, 0.7, 0.0)):
        step = transition(x, v, now, following, eta, sde_type)
        assert torch.equal(step.mean[[0, 2]], euler[[0, 2]])
        assert torch.equal(step.sample(draw(3, 11))[[0, 2]], euler[[0, 2]])
        assert not step.std[[0, 2]].any()


def test_ode_rows_among_sde_rows_carry_no_density_and_no_nan(sde_type):
    x, v = draw(4, *SHAPE, seed=1), draw(4, *SHAPE, seed=2).requires_grad_()
    sigma, following, eta = rows(1.0, 0.8, 0.8, 0.1), rows(0.8, 0.6, 0.6, 0.0), rows(0.0, 0.7, 0.0, 0.0)
    step = transition(x, v, sigma, following, eta, sde_type)
    other = transition(x, v.detach() + 0.1, sigma, following, eta, sde_type)
    next_x = draw(4, *SHAPE, seed=3)  # far from the mean: a deterministic row must not care
    for value in (
        step.log_prob(next_x),
        step.kl(other),
        joint_log_prob({"x": step}, {"x": next_x}, {}, "squared_error"),
    ):
        assert value[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]
        assert value[1] != 0
        (gradient,) = torch.autograd.grad(value.sum(), v, retain_graph=True)
        assert gradient.isfinite().all()
        assert not gradient[[0, 2, 3]].any()
        assert gradient[1].any()
    alone = transition(x[1:2], v[1:2], sigma[1:2], following[1:2], 0.7, sde_type)
    assert torch.equal(alone.log_prob(next_x[1:2]), step.log_prob(next_x)[1:2])


def test_last_cps_step_carries_no_density_and_no_nan():
    x, v = draw(2, 6, seed=1), draw(2, 6, seed=2).requires_grad_()
    step = transition(x, v, torch.tensor(0.3), torch.tensor(0.0), 0.7, "cps")
    assert torch.equal(step.sample(draw(2, 6, seed=3)), step.mean)
    (gradient,) = torch.autograd.grad(step.log_prob(step.mean.detach() + 1e-3).sum(), v)
    assert not gradient.any()
    torch.testing.assert_close(step.mean, x - 0.3 * v)


def test_kl_between_a_deterministic_and_a_noisy_row_is_not_silently_finite():
    x, v = draw(1, 6, seed=1), draw(1, 6, seed=2)
    ode, sde = (transition(x, v, torch.tensor(0.8), torch.tensor(0.7), eta, "sde") for eta in (0.0, 0.7))
    assert not ode.kl(sde).isfinite().any()
    assert not sde.kl(ode).isfinite().any()


# ------------------------------------------------------------------------------------------------ shapes and errors


def test_float64_stays_float64():
    x, v = draw(2, 6, dtype=torch.float64), draw(2, 6, seed=1)
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.7), 0.7, "sde")
    assert step.mean.dtype == step.log_prob(x).dtype == torch.float64


def test_shapes_of_all_fields():
    step = transition(draw(2, *SHAPE), draw(2, *SHAPE), torch.tensor(0.8), torch.tensor(0.7), 0.7, "sde")
    assert (step.mean.shape, step.std.shape, step.std_dev_t.shape) == ((2, *SHAPE), (2, 1, 1, 1), (2, 1, 1, 1))
    assert step.sqrt_dt.shape == (2,)


@pytest.mark.parametrize(
    ("eta", "sde_type", "words"),
    [
        (0.7, "cpss", "Did you mean 'cps'"),
        (-0.1, "sde", r"\[0, inf\]"),
        (1.1, "cps", r"\[0, 1.0\]"),
        (math.nan, "sde", "nan"),
    ],
)
def test_wrong_arguments_say_what_is_right(eta, sde_type, words):
    with pytest.raises(UserError, match=words):
        transition(draw(1, 2), draw(1, 2), torch.tensor(0.8), torch.tensor(0.7), eta, sde_type)
