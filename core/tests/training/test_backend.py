from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.types import LossOutput
from omni_rl.errors import ConfigError, RunError
from omni_rl.training.backend import TorchBackend
from omni_rl_testing.algorithm import gradient
from omni_rl_testing.backend import BackendContract
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import PolicyGradient, toy_model


class TestTorch(BackendContract):
    @pytest.fixture
    def backend(self):
        return TorchBackend


def parts_of(reference: bool = False, lora: dict | None = None, **train) -> Parts:
    algorithm = PolicyGradient(uses_reference=reference)
    return assemble(toy_model(), algorithm=algorithm, model={"lora": lora}, train={"lr": 1e-2, **train})


def vector(parts: Parts) -> np.ndarray:
    """(P,) float64: everything that trains."""
    return torch.cat([p.detach().flatten() for p in parts.model.parameters().values()]).double().numpy()


# --------------------------------------------------------------------------------------------------------- the update


@pytest.mark.parametrize("max_norm", [1e9, 1e-3], ids=["unclipped", "clipped"])
def test_an_update_is_adamw_on_the_clipped_gradient_of_the_mean_loss(max_norm):
    """Two updates by Loshchilov and Hutter's formulas in float64; the gradient is summed in another order."""
    parts = parts_of(micro_batch_size=4, max_grad_norm=max_norm, betas=(0.8, 0.9), weight_decay=0.1)
    expected, first, second = vector(parts), 0.0, 0.0
    for k in (1, 2):
        batch = parts.batch(k)
        g = gradient(parts, batch, len(batch)).double().numpy()
        norm = np.linalg.norm(g)
        g *= min(1.0, max_norm / (norm + 1e-6))
        first, second = 0.8 * first + 0.2 * g, 0.9 * second + 0.1 * g**2
        step = (first / (1 - 0.8**k)) / (np.sqrt(second / (1 - 0.9**k)) + 1e-8)
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * step
        figures = parts.backend.update(batch, k)
        assert figures["actor/grad_norm"] == pytest.approx(norm, rel=1e-4)
        np.testing.assert_allclose(vector(parts), expected, atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 3, "auto"])
def test_steps_of_one_forward_do_not_change_the_gradient(count):
    """Three stored steps, also in forwards of unequal size."""
    parts = assemble(toy_model(), algorithm=PolicyGradient(), train={"steps_per_forward": count}, rollout={"steps": 4})
    batch, calls = parts.batch(), []
    expected, compute = gradient(parts, batch, len(batch)), parts.hooks.compute_loss
    parts.hooks.compute_loss = lambda **given: (calls.append(list(given["steps"])), compute(**given))[1]
    norm = parts.backend.update(batch, 0)["actor/grad_norm"]
    assert norm == pytest.approx(float(expected.double().norm()), rel=1e-5)
    steps = trajectory.steps_of(batch)
    assert [step for call in calls for step in call] == list(range(steps))
    assert max(map(len, calls)) == min(steps, 1 if count == "auto" else count)


def test_the_loss_is_the_mean_over_samples_and_steps():
    parts = parts_of(micro_batch_size=4, lr=0.0)
    batch = parts.batch()
    mean = -(batch["advantages"][:, None] * batch["log_probs"]).mean()
    assert parts.backend.update(batch, 0)["actor/loss"] == pytest.approx(float(mean), rel=1e-4)


def test_mini_batches_are_whole_prompts_in_rollout_order():
    """Groups of 1, 3 and 2 samples, two prompts an update: rows 0 to 3, then 4 and 5. A batch may be ragged."""
    seen: list[list[int]] = []
    parts = parts_of(mini_batch_prompts=2, micro_batch_size=8)
    batch = parts.batch()
    batch["uid"] = torch.tensor([7, 5, 5, 5, 9, 9])
    compute = parts.hooks.compute_loss

    def recorded(*, policy, batch, steps):
        if steps == [0]:
            seen.append(batch["sample_id"].tolist())
        return compute(policy=policy, batch=batch, steps=steps)

    parts.hooks.compute_loss = recorded
    parts.backend.update(batch, 0)
    assert seen == [[0, 1, 2, 3], [4, 5]]


def test_figures_are_means_maxima_or_of_the_first_update():
    """``*_max`` over samples and steps, then the mean over updates; the replay error before any weight moved."""

    class Reporting(PolicyGradient):
        @hookimpl
        def compute_loss(self, policy, batch, steps):
            place = batch["sample_id"].double()[:, None] + 10 * torch.tensor(steps) + 100 * len(self.updates)
            figures = {"place": place, "place_max": place, "logp_absdiff_max": place}
            return LossOutput(super().compute_loss(policy, batch, steps).loss, figures)

    parts = assemble(toy_model(), algorithm=Reporting(), train={"inner_epochs": 2, "micro_batch_size": 4})
    batch = parts.batch()  # samples 0 to 5, steps 0 and 1
    figures = parts.backend.update(batch, 0)
    assert figures["actor/place"] == pytest.approx(2.5 + 5 + 50)
    assert figures["actor/place_max"] == pytest.approx(15 + 50)
    assert figures["actor/logp_absdiff_max"] == pytest.approx(15)


class Overflowing(PolicyGradient):
    """Whose loss is infinite in the iterations that say so."""

    broken = True

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        loss = super().compute_loss(policy, batch, steps).loss
        return LossOutput(loss * (torch.inf if self.broken else 1.0), {})


def test_an_update_without_a_finite_gradient_is_skipped():
    """Weights, the optimizer's state and the count of updates stay as they are; then training goes on."""
    algorithm = Overflowing()
    parts = assemble(toy_model(), algorithm=algorithm, train={"lr": 1e-2, "mini_batch_prompts": 2})
    batch, before = parts.batch(), vector(parts)
    figures = parts.backend.update(batch, 0)
    assert figures["actor/skipped_updates"] == figures["actor/updates"] == 2
    assert not np.isfinite(figures["actor/grad_norm"])
    np.testing.assert_array_equal(vector(parts), before)
    assert parts.backend.updates == 0
    algorithm.broken = False
    assert parts.backend.update(batch, 1)["actor/skipped_updates"] == 0
    assert np.isfinite(vector(parts)).all()
    assert (vector(parts) != before).any()


def test_a_run_that_only_skips_updates_stops():
    parts = assemble(toy_model(), algorithm=Overflowing(), train={"mini_batch_prompts": 2})
    batch = parts.batch()  # of three prompts
    parts.backend.update(batch, 0)
    with pytest.raises(RunError, match="3 updates in a row, the last in iteration 1, had a gradient that is not fin"):
        parts.backend.update(batch, 1)


def test_what_is_left_out_need_not_be_finite():
    class Lost(PolicyGradient):
        @hookimpl
        def prepare_actor_batch(self, batch):
            batch = batch.clone(recurse=False)
            batch["loss_weights"] = torch.ones(len(batch), batch["timesteps"].shape[1])
            batch["loss_weights"][0] = 0
            return batch

        @hookimpl
        def compute_loss(self, policy, batch, steps):
            loss = super().compute_loss(policy, batch, steps).loss
            first = batch["sample_id"][:, None] == 0
            return LossOutput(
                torch.where(first, torch.nan, loss), {"lost": torch.where(first, torch.nan, loss.detach())}
            )

    parts = assemble(toy_model(), algorithm=Lost(), train={"lr": 1e-2})
    figures = parts.backend.update(parts.batch(), 0)
    assert np.isfinite([figures["actor/loss"], figures["actor/lost"], figures["actor/grad_norm"]]).all()


def test_warm_up_is_linear():
    parts = parts_of(warmup=3, lr=0.4)
    batch = parts.batch()
    rates = [parts.backend.update(batch, k)["actor/lr"] for k in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_offloading_changes_no_result():
    here, away = parts_of(), parts_of(offload=True)
    for k in range(2):
        batch = here.batch(k)
        assert here.backend.update(batch, k) == away.backend.update(batch, k)
    assert np.array_equal(vector(here), vector(away))


# ------------------------------------------------------------------------------------------------------- named weights


@pytest.mark.parametrize("every", [1, 2])
def test_the_average_follows_its_formula(every):
    """ema <- 0.75 ema + 0.25 weights, every so many updates, over six updates of two iterations."""
    history: list[np.ndarray] = []

    class Watching(PolicyGradient):
        @hookimpl
        def after_update(self) -> None:
            history.append(vector(parts))

    ema = {"decay": 0.75, "every": every}
    parts = assemble(toy_model(), algorithm=Watching(), train={"lr": 1e-2, "ema": ema, "inner_epochs": 3})
    expected = vector(parts)
    for k in range(2):
        parts.backend.update(parts.batch(k), k)
    for values in history[every - 1 :: every]:
        expected = 0.75 * expected + 0.25 * values
    average = torch.cat([value.flatten() for value in parts.backend.policy.named["ema"].values()])
    assert len(history) == 6
    np.testing.assert_allclose(average.double().numpy(), expected, atol=1e-6)


def test_reference_weights_are_those_before_training_and_stay():
    parts = parts_of(reference=True)
    batch, before = parts.batch(), vector(parts)
    parts.backend.update(batch, 0)
    with parts.backend.policy.weights("reference"):
        assert np.array_equal(vector(parts), before)
    assert not np.array_equal(vector(parts), before)


def test_the_reference_of_adapters_is_the_bare_model():
    """Adapters start as a no-op, so the reference's velocities are the frozen model's."""
    parts = parts_of(reference=True, lora={"rank": 2, "alpha": 4.0})
    bare = assemble(toy_model())
    batch = bare.batch()
    for k in range(2):
        parts.backend.update(parts.batch(k), k)
    with parts.backend.policy.weights("reference"):
        theirs = parts.backend.policy.evaluate(batch, [0])[0].log_prob
    torch.testing.assert_close(theirs, batch["log_probs"][:, 0], rtol=1e-6, atol=1e-6)


def test_weights_come_back_when_an_algorithm_fails_inside():
    parts = parts_of(reference=True)
    parts.backend.update(parts.batch(), 0)
    before = parts.trained()
    with pytest.raises(RuntimeError, match="lost"), parts.backend.policy.weights("reference"):
        raise RuntimeError("lost")
    assert all(torch.equal(value, before[name]) for name, value in parts.trained().items())


def test_weights_that_are_not_kept_are_named():
    parts = parts_of()
    with pytest.raises(ConfigError, match="keeps no 'reference' weights"), parts.backend.policy.weights("reference"):
        pass
