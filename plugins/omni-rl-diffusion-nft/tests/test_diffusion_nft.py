from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from omni_rl.objectives.forward_process import noised_at
from omni_rl.schedulers.randomness import randn
from omni_rl_diffusion_nft import DiffusionNFT, DiffusionNFTConfig, decay_after
from omni_rl_testing.algorithm import AlgorithmContract, prepared
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model

THETA, OLD, REFERENCE = (0.6, -0.3), (0.5, -0.1), (0.2, 0.3)


def algorithm(**options) -> DiffusionNFT:
    return DiffusionNFT(DiffusionNFTConfig(**options))


def given(**options) -> dict[str, Any]:
    """The arguments of ``assemble``."""
    method = algorithm(**options)
    return {"algorithm": method, "options": method.config}


class TestDiffusionNFT(AlgorithmContract):
    @pytest.fixture(params=[{}, {"levels": "uniform", "levels_per_sample": 3, "mode": "binary"}])
    def options(self, request):
        return DiffusionNFTConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return DiffusionNFT(options)


@pytest.fixture
def policy():
    flow = LinearFlow(THETA, REFERENCE)
    flow.named["old"] = {"theta": torch.tensor(OLD, dtype=torch.float64)}
    return flow


@pytest.fixture
def batch():
    rows = LinearFlow(OLD).rollout(24, (0.95, 0.6, 0.2), elements=5)
    rows["advantages"] = torch.linspace(-7, 7, 24, dtype=torch.float64)
    return rows


def test_the_expected_gradient_is_the_closed_form():
    """At v = v_old, of one element: -2 s M (2 rho - 1) sign(u - v) dv, and u - v is normal over the noise."""
    rows, x0, advantage, limit, (a, b) = 8_000, 0.7, 2.0, 5.0, THETA
    batch = LinearFlow(THETA).rollout(rows, (0.95, 0.6))
    batch["latents", "x", "final"] = torch.full((rows, 1), x0, dtype=torch.float64)
    batch["advantages"] = torch.full((rows,), advantage, dtype=torch.float64)
    policy = LinearFlow(THETA)
    policy.named["old"] = {"theta": torch.tensor(THETA, dtype=torch.float64)}
    method = algorithm(beta=0.3, advantage_clip=limit, reference_weight=0.0)
    planned = method.prepare_actor_batch(batch, iteration=0, seed=0)
    s = float(planned["noise_levels"][0, 0])
    losses = method.loss_at(policy, planned, 0).loss
    parts = torch.stack([torch.autograd.grad(p.mean(), policy.theta, retain_graph=True)[0] for p in losses.chunk(50)])
    mean, deviation = -x0 * (1 + a * (1 - s)) - b, abs(1 - a * s)
    exact = -2 * s * advantage * math.erf(mean / deviation / math.sqrt(2))  # by b; M (2 rho - 1) is A
    error = float(parts[:, 1].std()) / math.sqrt(50)
    assert error < 0.1 * abs(exact)
    assert abs(float(parts[:, 1].mean()) - exact) < 4 * error


SHARES = {
    "all": lambda a: a,
    "positive_only": lambda a: np.maximum(a, 0),
    "negative_only": lambda a: np.minimum(a, 0),
    "one_only": lambda a: (a > 0) * 1.0,
    "binary": np.sign,
}


@pytest.mark.parametrize("mode", SHARES)
def test_loss_and_gradient_are_those_of_the_definition(policy, batch, mode):
    """The paper's loss in numpy float64, weights w constant; gradients against central differences."""
    b, limit, weight = 0.3, 5.0, 0.2
    method = algorithm(beta=b, advantage_clip=limit, reference_weight=weight, mode=mode)
    planned = method.prepare_actor_batch(batch, iteration=3, seed=1)
    x0, s = batch["latents", "x", "final"].numpy(), planned["noise_levels"][:, :1].double().numpy()
    noise = torch.stack([randn(int(seed), [5]) for seed in planned["noise", "x"][:, 0]]).double().numpy()
    x = (1 - s) * x0 + s * noise
    rho = np.clip(SHARES[mode](batch["advantages"].numpy()), -limit, limit) / limit / 2 + 0.5

    def velocity(theta):
        return float(theta[0]) * x + float(theta[1])

    def distance(mirrored, at):
        return ((x - s * mirrored(at) - x0) ** 2).mean(1) / np.abs(x - s * mirrored(THETA) - x0).mean(1)

    def expected(theta):
        near = distance(lambda at: b * velocity(at) + (1 - b) * velocity(OLD), theta)
        far = distance(lambda at: (1 + b) * velocity(OLD) - b * velocity(at), theta)
        reference = ((velocity(theta) - velocity(REFERENCE)) ** 2).mean(1)
        return limit / b * (rho * near + (1 - rho) * far) + weight * reference

    assert_gradient(policy, method.loss_at(policy, planned, 0).loss, expected)


def test_rewards_steer_also_while_old_and_new_are_one(policy, batch):
    """A peer's loss did not depend on rewards wherever old equalled current."""
    policy.named["old"]["theta"] = policy.theta.detach().clone()
    method = algorithm()
    gradients = []
    for sign in (1, -1):
        planned = method.prepare_actor_batch(batch, iteration=0, seed=0)
        planned["advantages"] = sign * batch["advantages"]
        gradients.append(torch.autograd.grad(method.loss_at(policy, planned, 0).loss.mean(), policy.theta)[0])
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_good_samples_attract_and_bad_ones_repel(policy, batch):
    """At v = v_old a sample's gradient is that of its matching error, with the sign of its advantage."""
    policy.named["old"]["theta"] = policy.theta.detach().clone()
    method = algorithm(reference_weight=0.0)
    planned = method.prepare_actor_batch(batch, iteration=0, seed=0)
    output = method.loss_at(policy, planned, 0)
    at = noised_at(planned, 0, torch.device("cpu"))
    error = at.error(policy.velocity(planned, at.x, at.t))
    for row, advantage in enumerate(batch["advantages"].tolist()):
        (ours,) = torch.autograd.grad(output.loss[row], policy.theta, retain_graph=True)
        (matching,) = torch.autograd.grad(error[row], policy.theta, retain_graph=True)
        assert torch.sign(ours @ matching) == np.sign(advantage)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("copy", [0, 0, 0, 0]),
        ("linear_to_0_5", [0.001, 0.075, 0.1, 0.5]),
        ("delayed_linear_to_0_999", [0, 0, 0.1875, 0.999]),
    ],
)
def test_decays(schedule, expected):
    assert [decay_after(k, schedule) for k in (1, 75, 100, 1000)] == pytest.approx(expected)


def test_the_old_policy_follows_once_an_iteration():
    """After the last of the iteration's updates, by the schedule's decay; and it is what samples are drawn with."""
    method = algorithm(decay="linear_to_0_5")
    parts = assemble(toy_model(), algorithm=method, options=method.config, train={"mini_batch_prompts": 1, "lr": 1e-2})
    policy = parts.backend.policy
    before = {n: v.clone() for n, v in policy.named["old"].items()}
    parts.backend.update(parts.batch(), 199)
    assert parts.backend.updates == 3
    for name, value in policy.named["old"].items():
        torch.testing.assert_close(value, 0.2 * before[name] + 0.8 * policy.parameters[name].detach())
    assert method.traits(method.config).samples_with == "old"


def test_levels_differ_from_iteration_to_iteration_and_from_row_to_row():
    """A peer reseeds them with a constant, so a row always trains on the same ones."""
    parts = assemble(toy_model(), **given(levels_per_sample=2), rollout={"steps": 10, "group_size": 4})
    batch, method = parts.batch(), parts.algorithm
    plans = [method.prepare_actor_batch(batch, iteration, 0)["noise_levels"] for iteration in range(3)]
    assert len({tuple(row) for plan in plans for row in plan.tolist()}) > 0.8 * 3 * len(batch)
    assert torch.equal(plans[1], method.prepare_actor_batch(batch, 1, 0)["noise_levels"])
    assert prepared(parts, batch)["timesteps"].shape == (len(batch), 2)
