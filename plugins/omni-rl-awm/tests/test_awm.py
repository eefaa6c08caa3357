from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from omni_rl.errors import ConfigError
from omni_rl.objectives.forward_process import Noised, noised_at
from omni_rl.schedulers.randomness import randn
from omni_rl_awm import AWM, AWMConfig
from omni_rl_testing.algorithm import AlgorithmContract, prepared
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model

THETA, SAMPLED_BY, REFERENCE = (0.6, -0.3), (0.5, -0.1), (0.2, 0.3)
LIKENESS = {
    "uniform": lambda e, s: -e,
    "t": lambda e, s: -s * e,
    "t2": lambda e, s: -(s**2) * e,
    "huber": lambda e, s: -s * (np.sqrt(e) - 1e-5),
    "ghuber": lambda e, s: -s * e**0.5 / 0.5,
}


def algorithm(**options) -> AWM:
    return AWM(AWMConfig(**options))


def given(**options) -> dict[str, Any]:
    """The arguments of ``assemble``."""
    method = algorithm(**options)
    return {"algorithm": method, "options": method.config}


class TestAWM(AlgorithmContract):
    @pytest.fixture(params=[{}, {"levels": "logit_normal", "levels_per_sample": 3, "weighting": "t", "kl_beta": 0.1}])
    def options(self, request):
        return AWMConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return AWM(options)


@pytest.mark.parametrize("weighting", LIKENESS)
@pytest.mark.parametrize("power", [0.5, 0.25, 1.0])
def test_a_velocity_that_meets_its_target_has_a_finite_gradient(weighting, power):
    target = torch.randn(3, 5)
    velocity = target.clone()
    velocity[1] += 0.1
    velocity.requires_grad_()
    at = Noised({"x": target}, {"x": target}, {"x": target}, torch.full((3,), 500.0), torch.tensor([0.1, 0.5, 0.9]), {})
    algorithm(weighting=weighting, power=power).likeness(at, {"x": velocity}).sum().backward()
    assert velocity.grad.isfinite().all()
    assert not velocity.grad[[0, 2]].any()
    assert velocity.grad[1].any()


@pytest.fixture
def batch():
    rows = LinearFlow(SAMPLED_BY).rollout(24, (0.95, 0.6, 0.2), elements=5)
    rows["advantages"] = torch.linspace(-2, 2, 24, dtype=torch.float64).roll(7)
    return rows


@pytest.mark.parametrize("weighting", LIKENESS)
def test_loss_and_gradient_are_those_of_the_definition(batch, weighting):
    """In numpy float64, with the ratio to the policy that prepared the batch; gradients by central differences."""
    clip, beta = 0.05, 0.3
    method = algorithm(weighting=weighting, clip_range=clip, kl_beta=beta)
    planned = method.prepare_actor_batch(LinearFlow(SAMPLED_BY), batch, iteration=3, seed=1)
    x0, s = batch["latents", "x", "final"].numpy(), planned["noise_levels"][:, 0].double().numpy()
    noise = torch.stack([randn(int(seed), [5]) for seed in planned["noise", "x"][:, 0]]).double().numpy()
    x = (1 - s[:, None]) * x0 + s[:, None] * noise

    def likeness(theta):
        error = ((float(theta[0]) * x + float(theta[1]) - (noise - x0)) ** 2).mean(1)
        return LIKENESS[weighting](error, s)

    advantages = batch["advantages"].numpy()

    def expected(theta):
        ratio = np.exp(likeness(theta) - likeness(SAMPLED_BY))
        away = ((float(theta[0]) - REFERENCE[0]) * x + float(theta[1]) - REFERENCE[1]) ** 2
        clipped = np.clip(ratio, 1 - clip, 1 + clip)
        return np.maximum(-advantages * ratio, -advantages * clipped) + beta * away.mean(1)

    policy = LinearFlow(THETA, REFERENCE)
    assert_gradient(policy, method.loss_at(policy, planned, 0).loss, expected)


def test_on_policy_it_is_the_weighted_matching_loss(batch):
    """Where the weights have not moved the gradient is A times that of w (v - u)^2: AWM's name."""
    method, policy = algorithm(weighting="t"), LinearFlow(THETA)
    planned = method.prepare_actor_batch(policy, batch, iteration=0, seed=0)
    output = method.loss_at(policy, planned, 0)
    (ours,) = torch.autograd.grad(output.loss.sum(), policy.theta, retain_graph=True)
    assert torch.equal(output.metrics["ratio_mean"], torch.ones(24, dtype=torch.float64))
    at = noised_at(planned, 0, torch.device("cpu"))
    weighted = batch["advantages"] * at.level * at.error(policy.velocity(planned, at.x, at.t))
    (matching,) = torch.autograd.grad(weighted.sum(), policy.theta)
    torch.testing.assert_close(ours, matching)


def test_the_expected_gradient_is_the_closed_form():
    """Of A w (v - u)^2 over the noise, for v = a x + b and one x0: (x0 (1 + a (1 - s)) + b)^2 + (a s - 1)^2."""
    rows, x0, (a, b) = 8_000, 0.7, THETA
    batch = LinearFlow(THETA).rollout(rows, (0.95, 0.6))
    batch["latents", "x", "final"] = torch.full((rows, 1), x0, dtype=torch.float64)
    batch["advantages"] = torch.full((rows,), 1.5, dtype=torch.float64)
    method, policy = algorithm(weighting="uniform"), LinearFlow(THETA)
    planned = method.prepare_actor_batch(policy, batch, iteration=0, seed=0)
    s = float(planned["noise_levels"][0, 0])
    losses = method.loss_at(policy, planned, 0).loss
    parts = torch.stack([torch.autograd.grad(p.mean(), policy.theta, retain_graph=True)[0] for p in losses.chunk(50)])
    inside = x0 * (1 + a * (1 - s)) + b
    exact = 1.5 * torch.tensor([2 * inside * x0 * (1 - s) + 2 * (a * s - 1) * s, 2 * inside], dtype=torch.float64)
    error = parts.std(0) / 50**0.5
    assert (error < 0.1 * exact.norm()).all()
    assert ((parts.mean(0) - exact).abs() < 4 * error + 1e-9).all()


def test_distances_pull_towards_reference_and_average():
    """With nothing to learn, each regulariser alone moves the weights towards what it names."""
    for name, options in {"reference": {"kl_beta": 1.0}, "ema": {"ema_beta": 1.0}}.items():
        ema = {"decay": 0.999} if name == "ema" else None
        train = {"lr": 1e-3, "weight_decay": 0.0, "ema": ema}
        parts = assemble(toy_model(), **given(**options), train=train)
        parts.nudge()
        batch = parts.rewarded(parts.batch(), torch.ones(6))
        figures = [parts.backend.update(batch, k)[f"actor/{name}_distance"] for k in range(4)]
        assert figures[-1] < figures[0]


def test_an_average_that_nobody_keeps_is_missed_before_the_run():
    with pytest.raises(ConfigError, match="needs the moving average of the weights"):
        assemble(toy_model(), **given(ema_beta=1.0))


def test_old_likeness_is_of_the_very_noise_that_is_trained_on():
    parts = assemble(toy_model(), **given(levels="uniform", levels_per_sample=3))
    batch = prepared(parts, parts.batch())
    for step in range(3):
        metrics = parts.hooks.compute_loss(policy=parts.backend.policy, batch=batch, steps=[step]).metrics
        assert metrics["ratio_mean"].tolist() == [[1.0]] * len(batch)
