from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from omni_rl.schedulers.randomness import randn
from omni_rl_diffusion_dpo import DiffusionDPO, OfflineDiffusionDPO
from omni_rl_diffusion_dpo.options import DiffusionDPOConfig, OfflineDiffusionDPOConfig
from omni_rl_diffusion_dpo.pairs import paired
from omni_rl_testing.algorithm import AlgorithmContract, prepared
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model

THETA, REFERENCE = (0.6, -0.3), (0.5, -0.1)


def algorithm(**options) -> DiffusionDPO:
    return DiffusionDPO(DiffusionDPOConfig(**options))


def given(**options) -> dict[str, Any]:
    """The arguments of ``assemble``."""
    method = algorithm(**options)
    return {"algorithm": method, "options": method.config}


class TestDiffusionDPO(AlgorithmContract):
    @pytest.fixture(params=[{}, {"levels": "schedule", "beta": 50.0, "positive": 2.0}])
    def options(self, request):
        return DiffusionDPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return DiffusionDPO(options)


class TestOfflineDiffusionDPO(AlgorithmContract):
    @pytest.fixture(params=[{}, {"levels": "uniform", "positive": 1.0, "reference_decay": 0.5}])
    def options(self, request):
        return OfflineDiffusionDPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return OfflineDiffusionDPO(options)


@pytest.fixture
def pairs():
    batch = LinearFlow(REFERENCE).rollout(24, (0.95, 0.6, 0.2), elements=5)
    batch["uid"] = torch.arange(24) // 4
    batch["rewards"] = torch.rand(24, generator=torch.Generator().manual_seed(0))
    return batch


@pytest.mark.parametrize("positive", [0.0, 3.0])
def test_loss_and_gradient_are_those_of_the_definition(pairs, positive):
    """In numpy float64, one noise and one level for both sides; gradients by central differences."""
    method, beta, theta = algorithm(beta=30.0, positive=positive), 30.0, (0.6, 0.1)
    planned = method.prepare_actor_batch(pairs, iteration=3, seed=1)
    assert len(planned) == 6
    s = planned["noise_levels"][:, :1].double().numpy()
    noise = torch.stack([randn(int(seed), [5]) for seed in planned["noise", "x"][:, 0]]).double().numpy()

    def error(theta, side):
        x0 = planned[side, "x", "final"].numpy()
        x = (1 - s) * x0 + s * noise
        return ((float(theta[0]) * x + float(theta[1]) - (noise - x0)) ** 2).mean(1)

    def expected(theta):
        won, lost = (error(theta, side) - error(REFERENCE, side) for side in ("latents", "rejected"))
        return np.log1p(np.exp(beta / 2 * (won - lost + positive * np.maximum(0, won))))

    policy = LinearFlow(theta, REFERENCE)
    output = method.loss_at(policy, planned, 0)
    assert_gradient(policy, output.loss, expected)
    worse_than_reference = (output.metrics["rewards/chosen"] < 0).numpy()
    assert worse_than_reference.any()
    assert not worse_than_reference.all()
    told_apart = (output.metrics["rewards/chosen"] > output.metrics["rewards/rejected"]).numpy()
    np.testing.assert_array_equal(output.metrics["implicit_acc"], told_apart)
    if not positive:
        np.testing.assert_array_equal(told_apart, expected(np.array(theta)) < math.log(2))


def test_the_expected_gradient_is_the_closed_form():
    """At the reference z is 0, and the gradient b / 4 times that of e_w - e_l, whose noise cancels but for x0's."""
    rows, won, lost, (a, b), beta = 8_000, 0.9, -0.2, THETA, 8.0
    pairs = LinearFlow(THETA).rollout(rows, (0.95, 0.6))
    pairs["latents", "x", "final"] = torch.full((rows, 1), won, dtype=torch.float64)
    pairs["rejected"] = pairs["latents"].clone()
    pairs["rejected", "x", "final"] = torch.full((rows, 1), lost, dtype=torch.float64)
    method = OfflineDiffusionDPO(OfflineDiffusionDPOConfig(beta=beta, levels="schedule"))
    policy = LinearFlow(THETA, THETA)
    planned = method.prepare_actor_batch(pairs, iteration=0, seed=0)
    s = float(planned["noise_levels"][0, 0])
    losses = method.loss_at(policy, planned, 0).loss
    parts = torch.stack([torch.autograd.grad(p.mean(), policy.theta, retain_graph=True)[0] for p in losses.chunk(50)])

    def of_error(x0):
        inside = x0 * (1 + a * (1 - s)) + b
        return torch.tensor([2 * inside * x0 * (1 - s), 2 * inside], dtype=torch.float64)

    exact = beta / 4 * (of_error(won) - of_error(lost))
    error = parts.std(0) / 50**0.5
    assert (error < 0.1 * exact.norm()).all()
    assert ((parts.mean(0) - exact).abs() < 4 * error + 1e-9).all()


def test_pairs_are_the_best_and_the_worst_of_each_group(pairs):
    found = paired(pairs)
    for row, group in enumerate(found["uid"].tolist()):
        members = pairs[pairs["uid"] == group]
        best, worst = members["rewards"].argmax(), members["rewards"].argmin()
        assert torch.equal(found["latents", "x", "final"][row], members["latents", "x", "final"][best])
        assert torch.equal(found["rejected", "x", "final"][row], members["latents", "x", "final"][worst])


def test_a_tie_makes_no_pair(pairs):
    """Peers train on an arbitrary pair then."""
    pairs["rewards"][4:8] = 0.3
    assert paired(pairs)["uid"].tolist() == [0, 2, 3, 4, 5]


def test_more_pairs_of_a_group_match_ranks_from_both_ends(pairs):
    """Of four samples at most two pairs, and none of two that are worth the same."""
    pairs["rewards"][:8] = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.2, 0.2, 0.2, 0.8])
    found = paired(pairs, 5)
    assert found["uid"].tolist() == [0, 0, 1, *(group for group in range(2, 6) for _ in range(2))]
    final = pairs["latents", "x", "final"]
    assert torch.equal(found["latents", "x", "final"][:3], final[[1, 3, 7]])
    assert torch.equal(found["rejected", "x", "final"][:2], final[[2, 0]])


@pytest.mark.parametrize("decay", [0.0, 0.75, 1.0])
def test_the_reference_follows_by_its_decay(decay):
    """Once an iteration, whatever the number of its updates."""
    parts = assemble(
        toy_model(),
        **given(reference_decay=decay),
        rollout={"group_size": 3},
        train={"mini_batch_prompts": 1, "lr": 1e-2},
    )
    policy = parts.backend.policy
    before = {n: v.clone() for n, v in policy.named["reference" if decay == 1 else "old"].items()}
    parts.backend.update(parts.batch(), 0)
    assert parts.backend.updates > 1
    for copy in policy.named.values():
        for name, value in copy.items():
            torch.testing.assert_close(value, decay * before[name] + (1 - decay) * policy.parameters[name].detach())


def test_an_iteration_of_ties_changes_nothing():
    parts = assemble(toy_model(), **given(), train={"weight_decay": 0.0})
    before = {n: p.detach().clone() for n, p in parts.model.parameters().items()}
    figures = parts.backend.update(parts.rewarded(parts.batch(), torch.ones(6)), 0)
    assert figures == {"actor/updates": 0, "actor/skipped_updates": 0}
    assert all(torch.equal(p, before[n]) for n, p in parts.model.parameters().items())


def test_both_sides_of_a_pair_share_noise_and_level():
    parts = assemble(toy_model(), **given(), rollout={"group_size": 3})
    batch = prepared(parts, parts.batch())
    assert batch["noise", "x"].shape == batch["noise_levels"].shape == (3, 4)
    same = batch.clone()
    same["rejected"] = same["latents"]
    parts.nudge()
    output = parts.hooks.compute_loss(policy=parts.backend.policy, batch=same, steps=[0])
    assert output.metrics["rewards/margins"].tolist() == [[0.0]] * 3


def test_logit_normal_levels():
    """Half of them below 1/2, and between the quartiles of the logistic image of a normal."""
    parts = assemble(toy_model(), **given(levels_per_sample=50), rollout={"group_size": 3})
    levels = prepared(parts, parts.batch())["noise_levels"].flatten()
    assert (levels < 0.5).float().mean() == pytest.approx(0.5, abs=0.01)
    quartile = 1 / (1 + math.exp(0.6745))
    assert (levels < quartile).float().mean() == pytest.approx(0.25, abs=0.02)
