from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rl.objectives.advantages import AdvantageOptions, gdpo_advantages, group_advantages

SCOPES = ("global", "group", "none")


def reference(rewards: list[float], uid: list[int], scope: str) -> np.ndarray:
    """By the definition, in float64, ddof 0 (population): as Flow-GRPO's numpy, not as torch.std's default."""
    values, groups = np.asarray(np.float32(rewards), dtype=np.float64), np.asarray(uid)
    out = np.empty_like(values)
    for i, (value, group) in enumerate(zip(values, groups, strict=True)):
        fellows = values[groups == group]
        std = {"global": values.std(ddof=0), "group": fellows.std(ddof=0), "none": 1 - 1e-4}[scope]
        out[i] = 0.0 if (fellows == fellows[0]).all() else (value - fellows.mean()) / (std + 1e-4)
    return out


def ours(rewards: list[float], uid: list[int], scope: str) -> torch.Tensor:
    return group_advantages(torch.tensor(rewards), torch.tensor(uid), scope)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), scope=st.sampled_from(SCOPES), size=st.integers(1, 12))
def test_equals_the_float64_definition(data, scope, size):
    rewards = data.draw(st.lists(st.floats(-100, 100, width=32), min_size=size, max_size=size))
    uid = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    np.testing.assert_allclose(ours(rewards, uid, scope), reference(rewards, uid, scope), rtol=1e-6, atol=1e-6)


def test_numbers_by_hand():
    """Two groups: deviations -1, 1 and -3, 3; population stds 1 and 3; together, sqrt(14)."""
    rewards, uid = [1.0, 3.0, 5.0, 11.0], [4, 4, 9, 9]
    assert ours(rewards, uid, "none").tolist() == [-1, 1, -3, 3]
    assert ours(rewards, uid, "group").tolist() == pytest.approx([-1 / 1.0001, 1 / 1.0001, -3 / 3.0001, 3 / 3.0001])
    root = 14**0.5  # population variance of 1, 3, 5, 11 about 5: (16 + 4 + 0 + 36) / 4
    assert ours(rewards, uid, "global").tolist() == pytest.approx([v / root for v in (-1, 1, -3, 3)], rel=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6, -7e-9])
def test_equal_rewards_give_exactly_zero(scope, value):
    """The mean of seven equal floats need not be that float, and (tiny / tiny) would train on the difference."""
    assert ours([value] * 7 + [0.5, 0.9], [0] * 7 + [1, 1], scope)[:7].tolist() == [0.0] * 7


@pytest.mark.parametrize("scope", SCOPES)
def test_a_group_of_one_gives_exactly_zero(scope):
    assert ours([0.4, 0.1, 0.9], [3, 5, 5], scope)[0] == 0
    assert ours([0.4], [3], scope).tolist() == [0.0]


@pytest.mark.parametrize("scope", SCOPES)
def test_groups_are_told_apart_by_uid_wherever_their_rows_lie(scope):
    together = ours([0.0, 1.0, 10.0, 12.0], [0, 0, 1, 1], scope)
    mixed = ours([0.0, 10.0, 1.0, 12.0], [0, 1, 0, 1], scope)
    assert mixed.tolist() == together[[0, 2, 1, 3]].tolist()


def test_missing_rewards_never_arrive():
    with pytest.raises(AssertionError, match="missing rewards"):
        ours([1.0, float("nan"), 3.0], [0, 0, 0], "group")


def test_fp32_out_of_float64_arithmetic():
    """Rewards that differ in their last bits: in fp32 their variance would be 0 or noise."""
    rewards = [1.0, 1.0 + 2**-23, 1.0 + 2**-22]
    found = ours(rewards, [0, 0, 0], "none")
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [-(2**-23), 0, 2**-23], rtol=1e-6, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------------- GDPO


def test_gdpo_normalises_each_reward_before_they_are_summed():
    """The paper's two steps in numpy: per reward and group, weighted sum, then the batch's standard deviation."""
    rng = np.random.default_rng(0)
    uid = np.repeat([4, 9, 2], 5)
    components = {"small": rng.normal(size=15), "large": 1000 * rng.normal(size=15)}
    weights = {"small": 1.0, "large": 0.5}
    expected = np.zeros(15)
    for label, values in components.items():
        for group in (4, 9, 2):
            member = values[uid == group]
            expected[uid == group] += weights[label] * (member - member.mean()) / (member.std() + 1e-4)
    expected /= expected.std() + 1e-4
    tensors = {label: torch.tensor(values) for label, values in components.items()}
    found = gdpo_advantages(tensors, weights, torch.tensor(uid), "group")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_large_reward_drowns_a_small_one_in_the_sum_and_not_in_gdpo():
    uid = torch.zeros(8, dtype=torch.int64)
    small = torch.tensor([0.0, 1.0] * 4)
    large = torch.tensor([0.0, 0.0, 500.0, 500.0, 0.0, 0.0, 500.0, 500.0])
    components, weights = {"small": small, "large": large}, {"small": 1.0, "large": 1.0}
    options = {name: AdvantageOptions(combine=name, std="group") for name in ("sum", "gdpo")}
    share = {}
    for name, option in options.items():
        found = option.advantages(small + large, uid, components, weights)
        share[name] = float((found[small == 1].mean() - found[small == 0].mean()) / found.std())
    assert share["sum"] < 0.01
    assert share["gdpo"] > 1


def test_gdpo_of_equal_rewards_is_exactly_zero():
    components = {"a": torch.full((4,), 0.1), "b": torch.tensor([0.1, 0.1, 0.7, 0.7])}
    found = gdpo_advantages(components, {"a": 1.0, "b": 1.0}, torch.tensor([0, 0, 1, 1]), "group")
    assert not found.any()


def test_gdpo_is_gdpo_by_default():
    """Two groups whose first rewards differ a thousandfold: both rewards count alike in either (float64 by hand)."""
    uid = torch.tensor([0] * 4 + [1] * 4)
    components = {
        "a": torch.tensor([0.0, 0.01, 0.02, 0.03, 0.0, 10.0, 20.0, 30.0]),
        "b": torch.tensor([1.0, 0.0, 1.0, 0.0] * 2),
    }
    option = AdvantageOptions(combine="gdpo")
    found = option.advantages(components["a"] + components["b"], uid, components, {"a": 1.0, "b": 1.0})
    expected = []
    for a in ([0.0, 0.01, 0.02, 0.03], [0.0, 10.0, 20.0, 30.0]):
        b = [1.0, 0.0, 1.0, 0.0]
        expected += list((a - np.mean(a)) / (np.std(a) + 1e-4) + (b - np.mean(b)) / (np.std(b) + 1e-4))
    np.testing.assert_allclose(found, np.array(expected) / (np.std(expected) + 1e-4), atol=1e-6)
    np.testing.assert_allclose(found[:4], [-0.31, -1.38, 1.38, 0.31], atol=1e-2)
