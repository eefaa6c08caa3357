from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from omni_rl.errors import UserError
from omni_rl.schedulers import Transition, joint_kl, joint_log_prob
from omni_rl.schedulers.transition import transition

TYPES = ("sde", "cps", "dance_sde")
SHAPE = (3, 4, 5)  # channels, height, width


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def normal(step: Transition) -> Normal:
    return Normal(step.mean.double(), step.std.double().expand_as(step.mean))


def per_row(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1)


# ------------------------------------------------------------------------------------------------- log-probs and KL


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_log_prob_is_the_mean_of_torch_distributions_normal(sde_type, eta):
    x, v, next_x = (draw(3, *SHAPE, seed=seed) for seed in (1, 2, 3))
    step = transition(x, v, rows(1.0, 0.8, 0.3), rows(0.8, 0.6, 0.1), eta, sde_type)
    torch.testing.assert_close(
        step.log_prob(next_x).double(), per_row(normal(step).log_prob(next_x.double())), rtol=1e-5, atol=1e-5
    )


def test_log_prob_sum_counts_elements(sde_type):
    x, v, next_x = (draw(2, *SHAPE, seed=seed) for seed in (1, 2, 3))
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type)
    total, count = step.log_prob_sum(next_x)
    assert count.tolist() == [60, 60]
    torch.testing.assert_close(total, normal(step).log_prob(next_x.double()).flatten(1).sum(1), rtol=1e-5, atol=1e-4)


def test_gradient_of_the_ratio_is_autograds_gradient_of_the_true_density(reference, sde_type):
    """Peers drop 1/(2 std^2) from cps, which turns its ratio's gradient into that of something else."""
    x, old, next_x = (draw(1, 12, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    new = (old + 0.01 * draw(1, 12, seed=4, dtype=torch.float64)).requires_grad_()
    pair = torch.tensor(0.8), torch.tensor(0.7)
    ours = [transition(x, v, *pair, 0.7, sde_type).log_prob(next_x) for v in (new, old)]
    table = [value.item() for value in pair]
    true = []
    for v in (new, old):
        step = reference(x, v, table, 0, 0.7, sde_type)
        true.append(per_row(Normal(step.mean, step.std).log_prob(next_x)))
    gradients = [torch.autograd.grad((a - b).exp().sum(), new)[0] for a, b in (ours, true)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_log_prob_and_kl_gradients_match_finite_differences(sde_type, masked):
    x, v, other_v, next_x = (draw(2, 3, 2, seed=seed, dtype=torch.float64) for seed in (1, 2, 3, 4))
    mask = torch.tensor([[True, True], [False, True], [True, True]]) if masked else None
    pair = rows(0.9, 0.5), rows(0.7, 0.4)
    other = transition(x, other_v, *pair, 0.7, sde_type)

    def scores(x: torch.Tensor, v: torch.Tensor, next_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = transition(x, v, *pair, 0.7, sde_type)
        return step.log_prob(next_x, mask), step.kl(other, mask)

    assert torch.autograd.gradcheck(scores, tuple(tensor.requires_grad_() for tensor in (x, v, next_x)))


@settings(max_examples=100, deadline=None)
@given(
    sigma=st.floats(0.05, 0.99), fraction=st.floats(0.1, 0.9), eta=st.floats(0.1, 1.0), sde_type=st.sampled_from(TYPES)
)
def test_log_ratio_depends_on_noise_and_mean_shift_alone(sigma, fraction, eta, sde_type):
    """log p_new - log p_old = mean(eps dmu) / s - mean(dmu^2) / (2 s^2): what GRPO-Guard's correction rests on."""
    x, old, new, noise = (draw(2, 9, seed=seed, dtype=torch.float64) for seed in (1, 2, 3, 4))
    pair = (torch.tensor(value, dtype=torch.float64) for value in (sigma, sigma * fraction))
    sigma_now, following = pair
    before = transition(x, old, sigma_now, following, eta, sde_type)
    after = transition(x, new, sigma_now, following, eta, sde_type)
    next_x = before.sample(noise)
    shift, std = after.mean - before.mean, before.std.flatten()
    expected = per_row(noise * shift) / std - per_row(shift**2) / (2 * std**2)
    torch.testing.assert_close(after.log_prob(next_x) - before.log_prob(next_x), expected, rtol=1e-6, atol=1e-6)


def test_squared_error_is_the_peers_cps_convention_and_not_the_density():
    x, v, next_x = (draw(2, *SHAPE, seed=seed) for seed in (1, 2, 3))
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.6), 0.7, "cps")
    ours = joint_log_prob({"x": step}, {"x": next_x}, {}, "squared_error")
    torch.testing.assert_close(ours, per_row(-((next_x - step.mean) ** 2)))


def test_kl_is_torch_distributions_kl_divergence_with_the_true_std(sde_type):
    x, v, other_v = (draw(3, *SHAPE, seed=seed) for seed in (1, 2, 3))
    pair = rows(1.0, 0.8, 0.3), rows(0.8, 0.6, 0.1)
    for other_eta in (0.7, 0.4):  # equal and unequal variances
        ours, other = transition(x, v, *pair, 0.7, sde_type), transition(x, other_v, *pair, other_eta, sde_type)
        expected = per_row(kl_divergence(normal(ours), normal(other)))
        torch.testing.assert_close(ours.kl(other).double(), expected, rtol=1e-5, atol=1e-6)
    assert ours.kl(ours).tolist() == [0.0, 0.0, 0.0]


def test_kl_is_the_expected_log_ratio_over_1e5_transitions(sde_type):
    x = torch.full((1, 100_000), 0.4)
    a, b = (transition(x, torch.full_like(x, v), torch.tensor(0.8), torch.tensor(0.7), 0.7, sde_type) for v in (-1, 1))
    sampled = a.sample(draw(1, 100_000, seed=3))
    assert (a.log_prob(sampled) - b.log_prob(sampled)).item() == pytest.approx(a.kl(b).item(), rel=0.05)


# ------------------------------------------------------------------------------------------------- masks and streams


def test_masked_elements_do_not_count(sde_type):
    x, v, other_v, next_x = (draw(2, *SHAPE, seed=seed) for seed in (1, 2, 3, 4))
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type)
    other = transition(x, other_v, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type)
    mask = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(5)) > 0.4  # frozen pixels, all channels
    chosen = mask.expand_as(x)
    densities, divergences = normal(step).log_prob(next_x.double()), kl_divergence(normal(step), normal(other))
    for row in range(2):
        kept = chosen[row]
        assert step.log_prob_sum(next_x, mask)[1][row] == kept.sum()
        assert step.log_prob(next_x, mask)[row].item() == pytest.approx(densities[row][kept].mean().item(), rel=1e-5)
        assert step.kl(other, mask)[row].item() == pytest.approx(divergences[row][kept].mean().item(), rel=1e-5)


def test_what_is_masked_cannot_leak_not_even_nan(sde_type):
    x, v, next_x = (draw(2, 6, seed=seed) for seed in (1, 2, 3))
    mask = torch.tensor([True, True, False, True, False, True])
    dirty = v.masked_fill(~mask, math.nan).requires_grad_()
    clean = v.clone().requires_grad_()
    values, gradients = [], []
    for velocity in (dirty, clean):
        step = transition(x, velocity, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type)
        values.append(step.log_prob(next_x, mask))
        gradients.append(torch.autograd.grad(values[-1].sum(), velocity)[0][:, mask])
    assert torch.equal(*values)
    assert torch.equal(*gradients)


def test_a_row_that_is_masked_out_entirely_scores_0(sde_type):
    x, v, next_x = (draw(2, 6, seed=seed) for seed in (1, 2, 3))
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type)
    mask = torch.tensor([[True], [False]])
    assert step.log_prob(next_x, mask)[1] == 0
    assert step.kl(transition(x, -v, torch.tensor(0.8), torch.tensor(0.6), 0.7, sde_type), mask)[1] == 0
    assert step.log_prob(next_x, mask)[0] == step.log_prob(next_x)[0]


def test_streams_are_scored_as_one_gaussian_over_all_their_elements(sde_type):
    """Video and audio: a mean of per-stream means would weigh one audio element like many pixels."""
    shapes, steps, others, next_x, masks = {"x": (2, 3, 4, 5), "audio": (2, 7)}, {}, {}, {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        pair = torch.tensor(0.8), torch.tensor(0.6 - 0.1 * seed)
        steps[name] = transition(draw(*shape, seed=seed), draw(*shape, seed=seed + 2), *pair, 0.7, sde_type)
        others[name] = transition(draw(*shape, seed=seed), draw(*shape, seed=seed + 4), *pair, 0.7, sde_type)
        next_x[name] = draw(*shape, seed=seed + 6)
    masks["x"] = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(5)) > 0.5
    keep = [torch.cat([masks["x"][row].flatten(), torch.ones(7, dtype=torch.bool)]) for row in range(2)]
    density = torch.cat([normal(steps[n]).log_prob(next_x[n].double()).flatten(1) for n in shapes], 1)
    error = torch.cat([(steps[n].mean - next_x[n]).double().square().flatten(1) for n in shapes], 1)
    divergence = torch.cat([kl_divergence(normal(steps[n]), normal(others[n])).flatten(1) for n in shapes], 1)
    for row in range(2):
        for ours, theirs in (
            (joint_log_prob(steps, next_x, masks, "density"), density),
            (joint_log_prob(steps, next_x, masks, "squared_error"), -error),
            (joint_kl(steps, others, masks), divergence),
        ):
            assert ours[row].item() == pytest.approx(theirs[row][keep[row]].mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------- replay and dtypes


@pytest.mark.parametrize("steps", [1, 4])
def test_stored_sigmas_replay_to_the_bit_at_any_batch_size(sd3_sigmas, sde_type, steps):
    table = rows(*sd3_sigmas(steps))
    x, stored = draw(7, 16, 33, 65, seed=1), []  # large enough for threaded and vectorised kernels
    for i in range(steps):
        v = draw(7, 16, 33, 65, seed=i + 2)
        step = transition(x, v, table[i], table[i + 1], 0.7, sde_type)
        following = step.sample(draw(7, 16, 33, 65, seed=i + 20))
        stored.append((x, v, following, step.log_prob(following)))
        x = following
    for i, (x, v, following, log_prob) in enumerate(stored):
        for size in (1, 2, 7):
            level = 0.7 if size == 2 else torch.full((size,), 0.7, dtype=torch.float64)
            sigma, sigma_next = table[i].expand(size), table[i + 1].expand(size)
            replay = transition(x[:size], v[:size], sigma, sigma_next, level, sde_type)
            assert torch.equal(replay.log_prob(following[:size]), log_prob[:size])


def test_bf16_model_output_replays_with_a_ratio_of_exactly_1(sde_type):
    """Peers store latents in the model's dtype: the ratio then drifts to one side of 1 before any update."""
    x, v = draw(5, 4, 8, 8, seed=1), draw(5, 4, 8, 8, seed=2, dtype=torch.bfloat16)
    pair = torch.tensor(0.8), torch.tensor(0.7)
    step = transition(x, v, *pair, 0.7, sde_type)
    assert step.mean.dtype == step.std.dtype == step.sqrt_dt.dtype == step.std_dev_t.dtype == torch.float32
    next_x = step.sample(draw(5, 4, 8, 8, seed=3))
    replay = transition(x, v.clone(), *pair, 0.7, sde_type)
    assert (replay.log_prob(next_x) - step.log_prob(next_x)).exp().tolist() == [1.0] * 5
    assert step.log_prob(next_x).dtype == torch.float32


def test_rounded_latents_are_refused_because_their_log_prob_is_another():
    x, v = draw(2, 6, seed=1), draw(2, 6, seed=2)
    step = transition(x, v, torch.tensor(0.8), torch.tensor(0.7), 0.7, "sde")
    with pytest.raises(UserError, match="fp32"):
        step.log_prob(x.bfloat16())
    with pytest.raises(UserError, match=r"\(1, 6\)"):  # broadcasting would score one sample for all
        step.log_prob(x[:1])
