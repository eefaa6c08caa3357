from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl_grpo_guard import GRPOGuard, GRPOGuardConfig
from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient, only_step

SIGMAS, ETA = (0.9, 0.6, 0.25), 0.5
THETA, SAMPLED_BY = (0.6, -0.3), (0.5, -0.1)


def algorithm(**options) -> GRPOGuard:
    return GRPOGuard(GRPOGuardConfig(**options))


class TestGRPOGuard(AlgorithmContract):
    @pytest.fixture(params=[{}, {"window_size": 2, "window_scope": "group", "kl_beta": 0.1}])
    def options(self, request):
        return GRPOGuardConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return GRPOGuard(options)


def coefficients(kind, sigma, following):
    """(of x, of v, std): Flow-GRPO's, DanceGRPO's and Flow-CPS's steps, written out."""
    h = sigma - following
    if kind == "cps":
        std = following * math.sin(ETA * math.pi / 2)
        rest = math.sqrt(following**2 - std**2)
        return (1 - following) + rest, -sigma * (1 - following) + (1 - sigma) * rest, std
    g = ETA * (math.sqrt(sigma / (1 - sigma)) if kind == "sde" else 1)
    return 1 - g**2 / (2 * sigma) * h, -(1 + g**2 * (1 - sigma) / (2 * sigma)) * h, g * math.sqrt(h)


def means(theta, kind, batch, step):
    x = batch["latents", "x", "all"][:, step].numpy()
    of_x, of_v, std = coefficients(kind, SIGMAS[step], SIGMAS[step + 1])
    return of_x * x + of_v * (float(theta[0]) * x + float(theta[1])), std


def sampled(kind, rows=40):
    batch = LinearFlow(SAMPLED_BY, eta=ETA, sde=kind).rollout(rows, SIGMAS, elements=3)
    batch["advantages"] = torch.linspace(-2, 2, rows, dtype=torch.float64).roll(rows // 3)
    return batch


@pytest.mark.parametrize("kind", ["sde", "dance_sde", "cps"])
@pytest.mark.parametrize("step", [0, 1])
def test_loss_and_gradient_are_those_of_the_definition(kind, step):
    """Against numpy in float64, and the gradients against central differences of the same."""
    batch, clip = sampled(kind), 0.01
    noise = trajectory.drawn_noise(batch, step)["x"].double().numpy()
    old, _ = means(SAMPLED_BY, kind, batch, step)
    advantages, h = batch["advantages"].numpy(), SIGMAS[step] - SIGMAS[step + 1]

    def expected(theta):
        ratio = np.exp((noise * (means(theta, kind, batch, step)[0] - old)).mean(1))
        return np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1 - clip, 1 + clip)) / h

    policy = LinearFlow(THETA, eta=ETA, sde=kind)
    assert_gradient(policy, only_step(algorithm(clip_range=clip).compute_loss(policy, batch, [step])).loss, expected)


@pytest.mark.parametrize("kind", ["sde", "dance_sde", "cps"])
def test_log_ratios_have_mean_zero_where_the_plain_ones_do_not(kind):
    """The plain ratio of a policy that has moved drifts below 1; Guard's does not, for every SDE type."""
    batch, policy = sampled(kind, 20_000), LinearFlow(THETA, eta=ETA, sde=kind)
    for step in (0, 1):
        guard = only_step(algorithm().compute_loss(policy, batch, [step])).metrics["ppo_kl"]
        plain = batch["log_probs"][:, step] - policy.evaluate(batch, [step])[0].log_prob.detach()
        assert abs(guard.mean()) < 4 * guard.std() / math.sqrt(len(guard))
        assert plain.mean() > 10 * plain.std() / math.sqrt(len(plain))


def test_it_is_the_peers_formula_of_one_timestep():
    """exp((log r + mean(dmu^2) / (2 s^2)) s), verl-omni's and flow_grpo's with sc = s; it differs from GRPO's."""
    batch, policy, step = sampled("sde"), LinearFlow(THETA, eta=ETA), 1
    (mean, std), (old, _) = means(THETA, "sde", batch, step), means(SAMPLED_BY, "sde", batch, step)
    change = (policy.evaluate(batch, [step])[0].log_prob.detach() - batch["log_probs"][:, step]).numpy()
    peers = np.exp((change + ((mean - old) ** 2).mean(1) / (2 * std**2)) * std)
    ours = only_step(algorithm().compute_loss(policy, batch, [step])).metrics["ratio_mean"]
    np.testing.assert_allclose(ours, peers, rtol=1e-9)
    assert np.abs(ours.numpy() - np.exp(change)).max() > 1e-2


def test_rows_of_different_steps_keep_their_own_scale():
    """Peers divide by a mean over the batch, which mixes timesteps as soon as windows differ."""
    batch, policy = sampled("sde"), LinearFlow(THETA, eta=ETA)
    apart = [only_step(algorithm().compute_loss(policy, batch, [step])).loss for step in (0, 1)]
    batch["order"] = torch.arange(len(batch))[:, None] % 2
    mixed = only_step(algorithm().compute_loss(policy, batch, [0])).loss
    torch.testing.assert_close(mixed, torch.where(batch["order"][:, 0] == 0, apart[0], apart[1]))
