from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from omni_rl_flow_dppo import FlowDPPO, FlowDPPOConfig
from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient, only_step

SIGMAS, ETA = (0.9, 0.6, 0.25), 0.5
THETA, SAMPLED_BY = (0.6, -0.3), (0.5, -0.1)


def algorithm(**options) -> FlowDPPO:
    return FlowDPPO(FlowDPPOConfig(**options))


class TestFlowDPPO(AlgorithmContract):
    @pytest.fixture(params=[{}, {"scale": "none", "window_size": 2, "kl_beta": 0.1}])
    def options(self, request):
        return FlowDPPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return FlowDPPO(options)


def density(theta, kind, batch, step):
    """(B,) log density per element, (B, 3) mean, and std of the step, written out."""
    x, following = (batch["latents", "x", "all"][:, step + k].numpy() for k in (0, 1))
    sigma, after = SIGMAS[step], SIGMAS[step + 1]
    h, v = sigma - after, float(theta[0]) * x + float(theta[1])
    if kind == "cps":
        std = after * math.sin(ETA * math.pi / 2)
        mean = (x - sigma * v) * (1 - after) + (x + (1 - sigma) * v) * math.sqrt(after**2 - std**2)
    else:
        g = ETA * (math.sqrt(sigma / (1 - sigma)) if kind == "sde" else 1)
        mean, std = x - h * (v + g**2 / (2 * sigma) * (x + (1 - sigma) * v)), g * math.sqrt(h)
    log = -((following - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return log.mean(1), mean, std


def sampled(kind, rows=40):
    batch = LinearFlow(SAMPLED_BY, eta=ETA, sde=kind).rollout(rows, SIGMAS, elements=3)
    batch["advantages"] = torch.linspace(-2, 2, rows, dtype=torch.float64).roll(rows // 3)
    return batch


@pytest.mark.parametrize("kind", ["sde", "dance_sde", "cps"])
@pytest.mark.parametrize("scale", ["variance", "none"])
def test_loss_and_gradient_are_those_of_the_definition(kind, scale):
    """Against numpy in float64; the mask is a constant."""
    batch, step = sampled(kind), 1
    advantages = batch["advantages"].numpy()
    _, old, std = density(SAMPLED_BY, kind, batch, step)
    log, mean, _ = density(THETA, kind, batch, step)
    kl = ((mean - old) ** 2).mean(1) / 2 / (std**2 if scale == "variance" else 1)
    threshold = float(np.median(kl))
    change = log - batch["log_probs"][:, step].numpy()
    masked = (kl >= threshold) & (change * advantages > 0)
    assert 3 < masked.sum() < 37

    def expected(theta):
        ratio = np.exp(density(theta, kind, batch, step)[0] - batch["log_probs"][:, step].numpy())
        return np.where(masked, 0.0, -advantages * ratio)

    policy = LinearFlow(THETA, eta=ETA, sde=kind)
    output = only_step(algorithm(threshold=threshold, scale=scale).compute_loss(policy, batch, [step]))
    assert_gradient(policy, output.loss, expected)
    np.testing.assert_allclose(output.metrics["kl_old"], kl, rtol=1e-6)
    np.testing.assert_array_equal(output.metrics["kl_mask_fraction"], masked)


@pytest.mark.parametrize("kind", ["sde", "dance_sde", "cps"])
def test_the_divergence_is_that_of_the_two_gaussians(kind):
    """By torch's own formula."""
    batch, policy = sampled(kind), LinearFlow(THETA, eta=ETA, sde=kind)
    for step in (0, 1):
        (_, mean, std), (_, old, _) = density(THETA, kind, batch, step), density(SAMPLED_BY, kind, batch, step)
        normal = [
            torch.distributions.Normal(torch.tensor(m), torch.tensor(std, dtype=torch.float64)) for m in (mean, old)
        ]
        expected = torch.distributions.kl_divergence(*normal).mean(1)
        ours = only_step(algorithm().compute_loss(policy, batch, [step])).metrics["kl_old"]
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-12)


def test_a_step_that_comes_back_is_never_masked():
    """However far it has gone: only what would go further is."""
    batch, policy = sampled("sde"), LinearFlow((3.0, 1.0), eta=ETA)
    output = only_step(algorithm(threshold=1e-9).compute_loss(policy, batch, [1]))
    ratio, advantages = output.metrics["ratio_mean"], batch["advantages"]
    back = (ratio - 1) * advantages < 0
    assert back.sum() > 3
    assert not output.metrics["kl_mask_fraction"][back].any()
