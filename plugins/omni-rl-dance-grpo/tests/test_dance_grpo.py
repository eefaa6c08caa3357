from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl_dance_grpo import DanceGRPO, DanceGRPOConfig
from omni_rl_testing.algorithm import AlgorithmContract, prepared
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model


def algorithm(**options) -> DanceGRPO:
    return DanceGRPO(DanceGRPOConfig(**options))


def given(**options) -> dict[str, Any]:
    """The arguments of ``assemble``."""
    method = algorithm(**options)
    return {"algorithm": method, "options": method.config}


class TestDanceGRPO(AlgorithmContract):
    @pytest.fixture(params=[{}, {"timestep_fraction": 1.0}, {"timestep_fraction": 0.3, "std": "none", "kl_beta": 0.1}])
    def options(self, request):
        return DanceGRPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return DanceGRPO(options)


@pytest.fixture
def parts():
    found = assemble(toy_model(), **given(timestep_fraction=0.5), rollout={"steps": 9, "group_size": 3})
    found.nudge()
    return found


def test_samples_of_a_prompt_start_from_one_x_t(parts):
    batch = parts.batch()
    start = batch["latents", "x", "all"][:, 0]
    for group in batch["uid"].unique():
        rows = start[batch["uid"] == group]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    assert not torch.equal(start[0], start[-1])
    assert parts.config.rollout.sde.type == "dance_sde"


def test_every_sample_is_trained_on_steps_of_its_own(parts):
    batch = parts.batch()
    order = prepared(parts, batch)["order"]
    assert order.shape == (len(batch), 4)  # half of 8
    assert (order.diff(dim=1) > 0).all()
    assert len({tuple(row) for row in order.tolist()}) > len(batch) // 2
    assert torch.equal(order, prepared(parts, batch)["order"])


def test_steps_are_left_out_equally_often(parts):
    """Each of 8 steps in half of 1,200 rows: chi-squared with 7 degrees of freedom, threshold at 1e-4."""
    batch, method = parts.batch(), parts.algorithm
    policy = parts.backend.policy
    found = [
        method.prepare_actor_batch(policy, batch, iteration, 0, lambda values: values)["order"]
        for iteration in range(134)
    ]
    counts = np.bincount(torch.cat(found).flatten(), minlength=8)
    expected = counts.sum() / 8
    assert ((counts - expected) ** 2 / expected).sum() < 29.9


def test_a_row_is_evaluated_at_the_steps_it_names(parts):
    """Log-probs of chosen steps are the stored ones, to the bit: latents, sigmas, timesteps and noise go together."""
    batch = prepared(parts, parts.batch())
    for step in range(trajectory.steps_of(batch)):
        (now,) = parts.backend.policy.evaluate(batch, [step])
        assert torch.equal(now.log_prob, trajectory.at(batch, "log_probs", step))
        moved = now.transitions["x"].sample(trajectory.drawn_noise(batch, step)["x"])
        assert torch.equal(moved, trajectory.latents(batch, step, ahead=1)["x"])


def test_all_steps_are_those_of_the_policy_gradient():
    """The whole fraction trains on what FlowGRPO's update would."""
    parts = assemble(toy_model(), **given(timestep_fraction=1.0), rollout={"steps": 5})
    assert "order" not in prepared(parts, parts.batch()).keys()
