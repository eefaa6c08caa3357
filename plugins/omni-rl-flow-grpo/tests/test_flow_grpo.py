from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Normal, kl_divergence

from omni_rl.errors import ConfigError
from omni_rl_flow_grpo import FlowGRPO, FlowGRPOConfig
from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.linear_flow import LinearFlow, only_step
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model

ETA = 0.7
SIGMAS = (0.95, 0.7, 0.4, 0.15)
THETA, REFERENCE = (0.6, -0.3), (0.2, 0.1)
OPTIONS = (
    {},
    {"std": "group", "window_size": 2, "window_range": [1, 6], "window_scope": "group"},
    {"std": "none", "kl_beta": 0.1, "window_size": 3},
)


def algorithm(**options) -> FlowGRPO:
    return FlowGRPO(FlowGRPOConfig(**options))


def given(**options) -> dict[str, Any]:
    """The arguments of ``assemble``."""
    method = algorithm(**options)
    return {"algorithm": method, "options": method.config}


class TestFlowGRPO(AlgorithmContract):
    @pytest.fixture(params=OPTIONS, ids=["default", "group", "none"])
    def options(self, request):
        return FlowGRPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return FlowGRPO(options)


@pytest.mark.parametrize("options", [{"clip_range": 0}, {"kl_beta": -0.1}, {"std": "sample"}, {"window_size": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError):
        FlowGRPOConfig(**options)


# --------------------------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize("scope", ["global", "group", "none"])
def test_advantages_are_their_formula_with_the_population_deviation(scope):
    """(r - mean of the group) / (std + 1e-4), ddof 0 as in Flow-GRPO; with ddof 1 groups of 2 shrink by sqrt(2)."""
    rewards, uid = np.array([0.2, 0.9, 0.4, 0.4, 0.1, 0.8]), np.array([3, 3, 8, 8, 3, 8])
    expected = np.empty(6)
    for group in (3, 8):
        member = rewards[uid == group]
        std = {"global": rewards.std(ddof=0), "group": member.std(ddof=0), "none": 1 - 1e-4}[scope]
        expected[uid == group] = (member - member.mean()) / (std + 1e-4)
    ours = algorithm(std=scope).config.advantages(torch.tensor(rewards).float(), torch.tensor(uid), {}, {})
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_advantages_are_clipped():
    rewards, uid = torch.tensor([0.0] * 99 + [1.0]), torch.zeros(100, dtype=torch.int64)
    assert algorithm(std="group").config.advantages(rewards, uid, {}, {}).max() == 5  # 99 / sqrt(99) before
    assert algorithm(std="group", advantage_clip=2).config.advantages(rewards, uid, {}, {}).max() == 2


# --------------------------------------------------------------------------------------------------------------- loss


def density(theta, batch, step):
    """(B,) log density per element and mean, std of the step, by Flow-GRPO's formulas in numpy."""
    states = batch["latents", "x", "all"].numpy()
    x, following = states[:, step], states[:, step + 1]
    sigma, sigma_next = SIGMAS[step], SIGMAS[step + 1]
    h, v = sigma - sigma_next, theta[0] * x + theta[1]
    level = ETA * math.sqrt(sigma / (1 - sigma))
    mean, std = x - h * (v + level**2 / (2 * sigma) * (x + (1 - sigma) * v)), level * math.sqrt(h)
    log = -((following - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return log.mean(1), mean, std


def expected_loss(theta, batch, step, clip, beta=0.0):
    """(B,) by definition."""
    log, mean, std = density(theta, batch, step)
    ratio = np.exp(log - batch["log_probs"][:, step].numpy())
    advantages = batch["advantages"].numpy()
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    _, other, _ = density(REFERENCE, batch, step)
    return np.maximum(-advantages * ratio, -advantages * clipped) + beta * ((mean - other) ** 2 / (2 * std**2)).mean(1)


@pytest.fixture
def batch():
    """Sampled by slightly other weights than those that are trained: ratios on both sides of the clip."""
    rows = LinearFlow((0.55, -0.22)).rollout(40, SIGMAS, elements=3)
    rows["advantages"] = torch.linspace(-2, 2, 40, dtype=torch.float64)[torch.randperm(40, generator=torch.Generator())]
    return rows


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_loss_and_gradient_are_those_of_the_definition(batch, step, beta):
    """Values against numpy, gradients of every row against central differences of the same."""
    clip, policy = 0.03, LinearFlow(THETA, REFERENCE)
    ours = only_step(algorithm(clip_range=clip, kl_beta=beta).compute_loss(policy, batch, [step])).loss
    np.testing.assert_allclose(ours.detach(), expected_loss(THETA, batch, step, clip, beta), rtol=1e-9, atol=1e-12)
    gradients = np.stack([torch.autograd.grad(row, policy.theta, retain_graph=True)[0].numpy() for row in ours])
    for i in range(2):
        up, down = (
            expected_loss(np.array(THETA) + sign * 1e-6 * np.eye(2)[i], batch, step, clip, beta) for sign in (1, -1)
        )
        np.testing.assert_allclose(gradients[:, i], (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def test_both_sides_of_the_clip_occur_and_have_no_gradient(batch):
    """A clipped row pushes nowhere; a ratio on the wrong side of its advantage is never clipped."""
    policy, clip = LinearFlow(THETA), 0.03
    output = only_step(algorithm(clip_range=clip).compute_loss(policy, batch, [1]))
    ratio, advantages = output.metrics["ratio_mean"], batch["advantages"]
    clipped = ((ratio > 1 + clip) & (advantages > 0)) | ((ratio < 1 - clip) & (advantages < 0))
    free = (((ratio - 1).abs() > clip) & ~clipped).sum()
    assert clipped.sum() > 3
    assert free > 3
    for row, loss in enumerate(output.loss):
        (gradient,) = torch.autograd.grad(loss, policy.theta, retain_graph=True)
        assert bool(gradient.any()) is not bool(clipped[row])


def test_figures(batch):
    change = density(THETA, batch, 1)[0] - batch["log_probs"][:, 1].numpy()
    figures = only_step(algorithm(clip_range=0.03).compute_loss(LinearFlow(THETA), batch, [1])).metrics
    expected = {
        "ratio_mean": np.exp(change),
        "logp_absdiff_max": np.abs(change),
        "rollout_logp_absdiff_max": np.abs(change),
        "ppo_kl": -change,
        "pg_clipfrac": np.abs(np.exp(change) - 1) > 0.03,
        "pg_clipfrac_higher": np.exp(change) > 1.03,
        "pg_clipfrac_lower": np.exp(change) < 0.97,
    }
    assert figures.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], values, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- policy gradient


def test_on_policy_gradient_in_closed_form():
    """d log p / d v = -(x' - mean) (h + g^2 (1 - sigma) / (2 sigma) h) / std^2, times x for a and 1 for b."""
    policy = LinearFlow(THETA)
    batch = policy.rollout(16, SIGMAS)
    batch["advantages"] = torch.linspace(-1, 1, 16, dtype=torch.float64)
    for step in range(3):
        _, mean, std = density(THETA, batch, step)
        sigma, h = SIGMAS[step], SIGMAS[step] - SIGMAS[step + 1]
        x, following = (batch["latents", "x", "all"][:, step + k].numpy() for k in (0, 1))
        slope = -h * (1 + ETA**2 * sigma / (1 - sigma) * (1 - sigma) / (2 * sigma))
        score = (following - mean) / std**2 * slope  # (B, 1)
        expected = -(batch["advantages"].numpy()[:, None] * score * np.concatenate([x, np.ones_like(x)], 1)).mean(0)
        (ours,) = torch.autograd.grad(
            only_step(algorithm().compute_loss(policy, batch, [step])).loss.mean(), policy.theta
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_it_climbs_the_expected_reward():
    """The gradient over 100,000 samples is that of E[x0 + x0^2], which a linear Gaussian chain gives exactly."""
    policy, rows = LinearFlow(THETA), 100_000
    batch = policy.rollout(rows, SIGMAS)
    final = batch["latents", "x", "final"][:, 0]
    method = algorithm(std="none", advantage_clip=1e9)
    uid = torch.zeros(rows, dtype=torch.int64)
    batch["advantages"] = method.config.advantages((final + final**2).float(), uid, {}, {}).double()
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(expected_reward(theta), theta)
    losses = torch.stack([only_step(method.compute_loss(policy, batch, [step])).loss for step in range(3)]).sum(
        0
    )  # (B,)
    (ours,) = torch.autograd.grad(losses.mean(), policy.theta, retain_graph=True)
    parts = [torch.autograd.grad(part.mean(), policy.theta, retain_graph=True)[0] for part in losses.chunk(50)]
    error = torch.stack(parts).std(0) / math.sqrt(50)
    assert (error < 0.08 * exact.abs()).all()
    assert ((-ours - exact).abs() < 4 * error).all()


def expected_reward(theta):
    """E[x0 + x0^2] for x_T ~ N(0, 1): mean and variance of a chain of x' = c x + d + std noise."""
    mean, variance = torch.zeros(2, dtype=torch.float64)
    for sigma, following in itertools.pairwise(SIGMAS):
        h, level = sigma - following, ETA * math.sqrt(sigma / (1 - sigma))
        pull = level**2 * h / (2 * sigma)
        slope = h + pull * (1 - sigma)
        c, d = 1 - pull - slope * theta[0], -slope * theta[1]
        start = 1.0 if sigma == SIGMAS[0] else variance
        mean, variance = c * mean + d, c**2 * start + level**2 * h
    return mean + mean**2 + variance


# ------------------------------------------------------------------------------------------------------------------ KL


def test_kl_is_that_of_torch_distributions(batch):
    policy = LinearFlow(THETA, REFERENCE)
    for step in range(3):
        ours = only_step(algorithm(kl_beta=0.1).compute_loss(policy, batch, [step])).metrics["kl"]
        (_, mean, std), (_, other, _) = density(THETA, batch, step), density(REFERENCE, batch, step)
        scale = torch.tensor(std, dtype=torch.float64)
        expected = kl_divergence(Normal(torch.tensor(mean), scale), Normal(torch.tensor(other), scale)).mean(1)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_reference_is_kept_only_for_a_kl():
    assert "reference" in algorithm(kl_beta=0.1).traits(algorithm(kl_beta=0.1).config).keeps
    assert "reference" not in algorithm().traits(algorithm().config).keeps


def flow_grpo_on_the_toy(**options) -> Parts:
    parts = assemble(toy_model(), **given(**options), train={"lr": 1e-3, "weight_decay": 0.0})
    parts.nudge()  # after the reference was taken
    return parts


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_kl_trains_where_rewards_do_not(beta):
    """Peers computed it under no_grad: logged, and without any gradient."""
    parts = flow_grpo_on_the_toy(kl_beta=beta)
    batch = parts.rewarded(parts.batch(), torch.ones(6))
    assert not batch["advantages"].any()
    before = [p.detach().clone() for p in parts.model.parameters().values()]
    figures = [parts.backend.update(batch, k) for k in range(3)]
    moved = [not torch.equal(p, b) for p, b in zip(parts.model.parameters().values(), before, strict=True)]
    assert all(moved) if beta else not any(moved)
    if beta:
        assert figures[2]["actor/kl"] < figures[0]["actor/kl"]


# -------------------------------------------------------------------------------------------------------------- window


def windows(iterations: int, groups: int = 1, seed: int = 0, **options) -> list[list[tuple[int, int]]]:
    asked = algorithm(**options)
    found = [[asked.sde_window(i, group, 10, seed) for group in range(groups)] for i in range(iterations)]
    return [[(window.start, window.stop) for window in row] for row in found]


@pytest.mark.parametrize("scope", ["iteration", "group"])
def test_windows_are_uniform_over_their_range(scope):
    """Starts 1 to 4 of a window of 2 in [1, 6): chi-squared with 3 degrees of freedom, threshold at 1e-4."""
    drawn = windows(4000, window_size=2, window_range=(1, 6), window_scope=scope)
    starts = np.array([start for ((start, stop),) in drawn])
    assert {stop - start for ((start, stop),) in drawn} == {2}
    counts = np.bincount(starts, minlength=6)
    assert counts[[0, 5]].tolist() == [0, 0]
    assert ((counts[1:5] - 1000) ** 2 / 1000).sum() < 21.1
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 4 / math.sqrt(4000)


def test_who_shares_a_window():
    shared = windows(50, groups=8, window_size=2)
    assert all(len(set(row)) == 1 for row in shared)
    assert len({row[0] for row in shared}) > 3
    apart = windows(50, groups=8, window_size=2, window_scope="group")
    assert sum(len(set(row)) > 1 for row in apart) > 45


@pytest.mark.parametrize("scope", ["iteration", "group"])
def test_samples_of_a_group_share_their_window_in_any_geometry(scope):
    """A window per request, or per worker, would make rewards of one group depend on where each sample got noise."""
    found = []
    for prompts, size in ((("a", "b"), 6), (("a", "b", "c", "d"), 2)):
        method = algorithm(window_size=2, window_scope=scope)
        rollout = {"steps": 10, "group_size": size, "batch_size": size - 1}
        parts = assemble(toy_model(), algorithm=method, options=method.config, prompts=prompts, rollout=rollout)
        asked = {request.uid: set() for request in parts.requests(iteration=3)}
        for request in parts.requests(iteration=3):
            asked[request.uid].add(request.window)
        assert {len(each) for each in asked.values()} == {1}
        found.append([each.pop() for each in asked.values()])
    assert found[0] == found[1][:2]


def test_other_seeds_and_iterations_give_other_windows():
    assert windows(50, window_size=2) != windows(50, window_size=2, seed=1)


def test_without_a_size_the_window_is_all_of_its_range():
    assert windows(3) == [[(0, 9)]] * 3
    assert windows(3, window_range=(2, 5)) == [[(2, 5)]] * 3
    assert algorithm().sde_window(0, 0, 1, 0).size == 1


@pytest.mark.parametrize("options", [{"window_size": 10}, {"window_range": (0, 11)}, {"window_range": (6, 5)}], ids=str)
def test_a_window_that_does_not_fit_is_an_error(options):
    with pytest.raises(ConfigError, match=r"does not fit window_range .* of 10 steps"):
        algorithm(**options).sde_window(0, 0, 10, 0)
