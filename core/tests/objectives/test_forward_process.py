from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from omni_rl.objectives.forward_process import ForwardOptions, noised_at, timesteps_at
from omni_rl.schedulers.randomness import randn
from omni_rl_testing.linear_flow import LinearFlow

SIGMAS = (1.0, 0.75, 0.5, 0.1, 0.0)


@pytest.fixture
def batch() -> TensorDict:
    return LinearFlow((0.5, 0.1)).rollout(300, (0.9, 0.6, 0.3, 0.1), elements=4)


def plan(batch, iteration=0, seed=0, **options) -> TensorDict:
    return ForwardOptions(**options).noised(batch, iteration, seed)


def test_a_sample_is_mixed_with_the_noise_that_its_keys_name(batch):
    """x = (1 - s) x0 + s n and u = n - x0, in numpy."""
    planned = plan(batch, levels="uniform", levels_per_sample=2)
    for step in (0, 1):
        at = noised_at(planned, step, torch.device("cpu"))
        noise = torch.stack([randn(int(seed), [4]) for seed in planned["noise", "x"][:, step]]).double().numpy()
        s, x0 = planned["noise_levels"][:, step, None].double().numpy(), batch["latents", "x", "final"].numpy()
        np.testing.assert_allclose(at.x["x"], (1 - s) * x0 + s * noise, rtol=1e-12)
        np.testing.assert_allclose(at.target["x"], noise - x0, rtol=1e-12)
        assert torch.equal(at.level, planned["noise_levels"][:, step])


def test_noise_is_standard_normal_and_shared_by_nobody(batch):
    planned = plan(batch, levels_per_sample=3)
    seeds = planned["noise", "x"].flatten().tolist()
    assert len(set(seeds)) == len(seeds) == 900
    drawn = torch.stack([randn(seed, [4]) for seed in seeds]).flatten()
    assert abs(drawn.mean()) < 4 / math.sqrt(len(drawn))
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / len(drawn))


def test_levels_of_the_schedule_are_each_used_once(batch):
    levels = plan(batch)["noise_levels"]
    expected = torch.tensor([0.9, 0.6, 0.3])
    torch.testing.assert_close(levels.sort(dim=1, descending=True).values.float(), expected.expand(300, 3))
    assert len({tuple(row) for row in levels.tolist()}) == 6  # all orders occur
    twice = plan(batch, levels_per_sample=6)["noise_levels"]
    assert (torch.stack([(twice == level).sum(1) for level in twice[0].unique()]) == 2).all()


@pytest.mark.parametrize("levels", ["uniform", "logit_normal"])
def test_levels_follow_their_distribution(batch, levels):
    """Kolmogorov-Smirnov against the distribution's own function, 1 % critical value."""
    drawn = plan(batch, levels=levels, levels_per_sample=1, logit_mean=0.3, logit_std=0.8)["noise_levels"].flatten()
    values = drawn.double().sort().values.numpy()
    z = (np.log(values / (1 - values)) - 0.3) / 0.8
    known = values if levels == "uniform" else np.array([0.5 * (1 + math.erf(each / math.sqrt(2))) for each in z])
    places = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(places - known).max() < 1.63 / math.sqrt(len(values))


def test_a_row_covers_its_distribution_evenly(batch):
    levels = plan(batch, levels="uniform", levels_per_sample=4)["noise_levels"]
    assert ((levels.sort(dim=1).values * 4).long().clamp(max=3) == torch.arange(4)).all()


def test_plans_follow_iteration_and_sample_and_nothing_else(batch):
    planned = plan(batch, 3, levels="uniform")
    assert torch.equal(plan(batch[100:], 3, levels="uniform")["noise_levels"], planned["noise_levels"][100:])
    assert not torch.equal(plan(batch, 4, levels="uniform")["noise_levels"], planned["noise_levels"])
    assert not torch.equal(plan(batch, 3, seed=1, levels="uniform")["noise", "x"], planned["noise", "x"])


def test_timesteps_are_the_schedules_and_linear_between():
    """A shifted table whose timesteps are not sigma times 1000, and the interval below its last level."""
    table = TensorDict(
        {"sigmas": torch.tensor(SIGMAS), "timesteps": torch.tensor([1000.0, 700.0, 500.0, 90.0])}, batch_size=[]
    )
    levels = torch.tensor([1.0, 0.75, 0.5, 0.1, 0.625, 0.3, 0.05, 0.0])
    expected = torch.tensor([1000.0, 700.0, 500.0, 90.0, 600.0, 295.0, 45.0, 0.0])
    torch.testing.assert_close(timesteps_at(table, levels), expected)


def test_frozen_elements_stay_and_do_not_count(batch):
    mask = torch.ones(300, 4, dtype=torch.bool)
    mask[:, 0] = False
    batch["mask"] = TensorDict({"x": mask}, [300])
    planned = plan(batch)
    at = noised_at(planned, 0, torch.device("cpu"))
    assert torch.equal(at.x["x"][:, 0], batch["latents", "x", "final"][:, 0])
    assert not torch.equal(at.x["x"][:, 1], batch["latents", "x", "final"][:, 1])
    velocity = {"x": at.target["x"].clone()}
    velocity["x"][:, 0] += 5
    assert not at.error(velocity).any()
    velocity["x"][:, 1] += 3
    torch.testing.assert_close(at.error(velocity), torch.full((300,), 3.0, dtype=torch.float64))
