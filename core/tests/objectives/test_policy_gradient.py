"""What policy gradients share, on a flow of numbers whose densities are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from omni_rl.contracts import batches
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.objectives.divergence import divergence
from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient
from omni_rl.objectives.rollout_correction import Correction, corrected
from omni_rl_testing.linear_flow import LinearFlow, assert_gradient, only_step
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model

SIGMAS, ETA = (0.9, 0.6, 0.25), 0.5
THETA, SAMPLED_BY, REFERENCE = (0.6, -0.3), (0.5, -0.1), (0.2, 0.3)
KINDS = ["sde", "dance_sde", "cps"]


def alone(values):
    """The sum over the ranks of one process."""
    return values


class Plain(PolicyGradient):
    """The surrogate as it is, in every step but the last."""

    Config = ClippedOptions

    @hookimpl
    def sde_window(self, steps: int) -> Window:
        return Window(0, steps - 1)


def algorithm(**options) -> Plain:
    return Plain(ClippedOptions(**options))


def sampled(kind="sde", rows=40):
    batch = LinearFlow(SAMPLED_BY, eta=ETA, sde=kind).rollout(rows, SIGMAS, elements=3)
    batch["advantages"] = torch.linspace(-2, 2, rows, dtype=torch.float64).roll(rows // 3)
    return batch


def step_of(theta, kind, batch, step):
    """(mean (B, 3), std, velocity (B, 3)) written out: Flow-GRPO's, DanceGRPO's and Flow-CPS's."""
    x = batch["latents", "x", "all"][:, step].numpy()
    sigma, after = SIGMAS[step], SIGMAS[step + 1]
    h, v = sigma - after, float(theta[0]) * x + float(theta[1])
    if kind == "cps":
        std = after * math.sin(ETA * math.pi / 2)
        return (x - sigma * v) * (1 - after) + (x + (1 - sigma) * v) * math.sqrt(after**2 - std**2), std, v
    g = ETA * (math.sqrt(sigma / (1 - sigma)) if kind == "sde" else 1)
    return x - h * (v + g**2 / (2 * sigma) * (x + (1 - sigma) * v)), g * math.sqrt(h), v


def log_density(theta, kind, batch, step):
    mean, std, _ = step_of(theta, kind, batch, step)
    following = batch["latents", "x", "all"][:, step + 1].numpy()
    return (-((following - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)).mean(1)


# --------------------------------------------------------------------------------------------------------------- clip


def test_the_two_sides_of_the_clip_are_apart():
    """[low, high]: values and gradients against the definition in numpy."""
    batch, step = sampled(), 1
    advantages = batch["advantages"].numpy()

    def expected(theta):
        ratio = np.exp(log_density(theta, "sde", batch, step) - batch["log_probs"][:, step].numpy())
        return np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1 - 0.2, 1 + 0.01))

    policy = LinearFlow(THETA, eta=ETA)
    output = only_step(algorithm(clip_range=[0.2, 0.01]).compute_loss(policy, batch, [step]))
    assert_gradient(policy, output.loss, expected)
    ratio = output.metrics["ratio_mean"]
    assert torch.equal(output.metrics["pg_clipfrac_higher"], (ratio > 1.01).float())
    assert torch.equal(output.metrics["pg_clipfrac_lower"], (ratio < 0.8).float())


# --------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", ["transition", "std_dev_t", "mean_mse", "velocity_mse", "old_log_ratio"])
def test_divergences_are_their_formulas(kind, step, name):
    """Each peer's convention in numpy float64, with its gradient by central differences."""
    batch, policy = sampled(kind), LinearFlow(THETA, REFERENCE, eta=ETA, sde=kind)
    other, std, v_other = step_of(REFERENCE, kind, batch, step)
    h = SIGMAS[step] - SIGMAS[step + 1]
    public = std / math.sqrt(h) if kind == "sde" else std

    def expected(theta):
        mean, _, v = step_of(theta, kind, batch, step)
        change = log_density(theta, kind, batch, step) - batch["log_probs"][:, step].numpy()
        return {
            "transition": ((mean - other) ** 2).mean(1) / (2 * std**2),
            "std_dev_t": ((mean - other) ** 2).mean(1) / (2 * public**2),
            "mean_mse": ((mean - other) ** 2).mean(1),
            "velocity_mse": ((v - v_other) ** 2).mean(1),
            "old_log_ratio": change**2 / 2,
        }[name]

    (now,) = policy.evaluate(batch, [step])
    found = divergence(name, policy, batch, step, now, now.log_prob - batch["log_probs"][:, step])
    assert_gradient(policy, found, expected)


def keeps(**options):
    """The copies that the algorithm asks for."""
    chosen = algorithm(**options)
    return chosen.traits(chosen.config).keeps


def test_a_reference_is_kept_where_one_is_compared_with():
    assert "reference" in keeps(kl_beta=0.1)
    assert "reference" not in keeps(kl_beta=0.1, kl="old_log_ratio")
    assert "reference" not in keeps(kl="velocity_mse")


# --------------------------------------------------------------------------------------------------------- correction


def drawn_elsewhere(level: float = 0.1):
    """A batch whose stored log-probs are an engine's that computes a little otherwise."""
    batch = sampled()
    off = torch.randn(batch["log_probs"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch["log_probs"] = batch["log_probs"] + level * off
    return batch


@pytest.mark.parametrize("means", [False, True])
def test_batch_wide_statistics_see_all_sizes(means):
    """Rows of 3 and of 7 elements: the mean over both is 1, as in numpy, and no size's own mean is."""
    sizes = [LinearFlow(SAMPLED_BY, eta=ETA).rollout(10, SIGMAS, elements=elements) for elements in (3, 7)]
    for number, rows in enumerate(sizes):
        rows["uid"] = torch.full((10,), number)
        rows["log_probs"] = rows["log_probs"] + 0.2 * number - torch.linspace(-0.1, 0.1, 10)[:, None]
    batch = batches.stacked([row for rows in sizes for row in rows.unbind(0)])
    options = Correction(cap=5.0, normalise=True)
    found = corrected(LinearFlow(SAMPLED_BY, eta=ETA), batch, "recomputed", options, alone, means)
    weights = np.exp((found["old_log_probs"] - batch["log_probs"]).numpy())
    np.testing.assert_allclose(found["importance"], weights / weights.mean(), rtol=1e-5)
    assert abs(float(found["importance"][:10].mean()) - 1) > 0.05
    if means:
        shapes = {tuple(row["old_means", "x"].shape) for row in found.unbind(0)}
        assert shapes == {(3, 3), (3, 7)} or shapes == {(2, 3), (2, 7)}


@pytest.mark.parametrize("level", ["step", "trajectory"])
@pytest.mark.parametrize("normalise", [False, True])
def test_weights_are_capped_ratios(level, normalise):
    """w = pi_old / pi_rollout against numpy; with ``normalise`` their mean over what is kept is 1."""
    batch, policy, cap, keep = drawn_elsewhere(), LinearFlow(SAMPLED_BY, eta=ETA), 1.1, (0.85, 1.2)
    found = corrected(
        policy, batch, "recomputed", Correction(level=level, cap=cap, normalise=normalise, keep=keep), alone
    )
    old = np.stack([log_density(SAMPLED_BY, "sde", batch, step) for step in (0, 1)], 1)
    np.testing.assert_allclose(found["old_log_probs"], old, rtol=1e-9)
    difference = old - batch["log_probs"].numpy()
    weights = np.exp(difference if level == "step" else difference.sum(1, keepdims=True).repeat(2, 1))
    kept = (weights >= keep[0]) & (weights <= keep[1])
    assert 3 < kept.sum() < kept.size - 3
    expected = np.minimum(weights, cap)
    expected = expected / expected[kept].mean() if normalise else expected
    np.testing.assert_allclose(found["importance"], expected * kept, rtol=1e-5)
    np.testing.assert_array_equal(found["loss_weights"], kept)
    figures = {k: float(v[0]) for k, v in found["metrics"].items()}
    assert figures["rollout_corr/kl"] == pytest.approx(-difference.mean(), rel=1e-5)
    assert figures["rollout_corr/k3_kl"] == pytest.approx((np.expm1(difference) - difference).mean(), rel=1e-5)
    assert figures["rollout_corr/ess"] == pytest.approx(weights.sum() ** 2 / (weights.size * (weights**2).sum()))
    assert figures["rollout_corr/masked_fraction"] == pytest.approx(1 - kept.mean())
    assert figures["rollout_corr/weight_max"] == pytest.approx(weights.max(), rel=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("broken", [-math.inf, math.inf, math.nan])
def test_a_rejected_step_may_have_any_log_prob(broken, normalise):
    """An engine that gave one step up: its weight is not finite, and 0 times that would be no number."""
    batch, policy = drawn_elsewhere(level=0.01), LinearFlow(SAMPLED_BY, eta=ETA)
    batch["log_probs"][3, 1] = broken
    found = corrected(policy, batch, "recomputed", Correction(normalise=normalise, keep=(0.5, 2.0)), alone)
    assert float(found["loss_weights"].sum()) == found["loss_weights"].numel() - 1
    assert float(found["importance"][3, 1]) == 0
    assert bool(found["importance"].isfinite().all())
    assert float(algorithm().compute_loss(policy, found, [1]).loss.detach()[3, 0]) == 0


def test_the_bypass_leaves_the_batch_alone():
    batch = drawn_elsewhere()
    assert corrected(LinearFlow(SAMPLED_BY), batch, "rollout", None, alone) is batch
    with pytest.raises(ValidationError, match="correction needs old_log_probs: recomputed"):
        algorithm(correction={})
    with pytest.raises(ValidationError, match="must contain 1"):
        Correction(keep=(1.1, 2.0))


def test_a_weighted_loss_is_the_surrogate_times_its_weight():
    batch, policy = drawn_elsewhere(), LinearFlow(THETA, eta=ETA)
    found = corrected(LinearFlow(SAMPLED_BY, eta=ETA), batch, "recomputed", Correction(cap=1.05), alone)
    plain = sampled()
    for step in (0, 1):
        ours = only_step(algorithm().compute_loss(policy, found, [step])).loss
        expected = only_step(algorithm().compute_loss(policy, plain, [step])).loss * found["importance"][:, step]
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


class Rejecting(Plain):
    """Leaves out all but the given steps, as a correction would."""

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__(ClippedOptions())
        self.kept = kept

    @hookimpl
    def prepare_actor_batch(self, batch):
        batch = batch.clone(recurse=False)
        batch["loss_weights"] = self.kept
        return batch


@pytest.mark.parametrize("micro_batch_size", [1, 4, 6])
def test_what_is_rejected_leaves_the_denominator_too(micro_batch_size):
    """Peers keep rejected rows in the mean's denominator, which shrinks every other row's gradient."""
    kept = torch.ones(6, 3)
    kept[:4] = 0
    train = {"micro_batch_size": micro_batch_size, "weight_decay": 0.0, "max_grad_norm": 1e9}
    sizes = {"steps": 4, "group_size": 3}
    same = {"options": ClippedOptions(), "prompts": ("a", "b"), "rollout": sizes, "train": train}
    parts = assemble(toy_model(), algorithm=Rejecting(kept), **same)
    parts.nudge()
    batch = parts.batch()
    figures = parts.backend.update(batch, 0)
    alone = assemble(toy_model(), algorithm=Rejecting(torch.ones(2, 3)), **same)
    alone.nudge()
    expected = alone.backend.update(batch[4:], 0)
    assert figures["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-5)
    assert figures["actor/ratio_mean"] == pytest.approx(1.0)


def test_an_iteration_whose_steps_are_all_rejected_is_no_update():
    parts = assemble(
        toy_model(), algorithm=Rejecting(torch.zeros(6, 3)), options=ClippedOptions(), rollout={"steps": 4}
    )
    assert parts.backend.update(parts.batch(), 0) == {"actor/updates": 0, "actor/skipped_updates": 0}


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_of_a_correction_stand_beside_the_actors():
    method = algorithm(old_log_probs="recomputed")
    parts = assemble(toy_model(), algorithm=method, options=method.config)
    parts.nudge()
    figures = parts.backend.update(parts.batch(), 0)
    assert figures["rollout_corr/ess"] == pytest.approx(1.0)
    assert figures["rollout_corr/kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["actor/ratio_mean"] == pytest.approx(1.0)
