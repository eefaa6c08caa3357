"""Contract tests of algorithms. See :class:`AlgorithmContract`."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel, ValidationError
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Window
from omni_rl.contracts.schema import Algorithm
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model

UNKNOWN_KEY = "no_algorithm_has_this_option"
GROUP_SIZE = 3


class AlgorithmContract:
    """Checks that a run can use an algorithm. Inherit it and supply two fixtures.

    ``options``: the validated options, an instance of the algorithm's ``Config``; not needed if it has none.

    ``algorithm``: the instance under test, built from ``options``. An ``offline`` algorithm, which learns from
    pairs, gets samples of the toy pipeline as chosen and rejected media.

    ``model`` (optional): the model to train, for an algorithm that needs more than a velocity; default: the toy
    pipeline of :mod:`omni_rl_testing.toy`. Core's own engine and backend sample and train it.

    Attributes:
        steps: denoising steps per sample; raise it if the algorithm's window does not fit.
    """

    steps: ClassVar[int] = 10

    @pytest.fixture
    def model(self) -> LoadedModel:
        """A new toy pipeline."""
        return toy_model()

    @pytest.fixture
    def options(self) -> BaseModel | None:
        """None, for an algorithm without options."""
        return None

    @pytest.fixture
    def parts(self, algorithm: object, options: BaseModel | None, model: LoadedModel) -> Parts:
        """The parts of a run with the algorithm; the weights differ from their initial values."""
        return assembled(algorithm, options, model, self.steps)

    def test_options_are_strict_described_and_its_own(self, algorithm: object) -> None:
        """An unknown option is an error, ``omni-rl config --explain`` describes every option, and none has the name of
        a key of core.

        Fix ``Config``: ``extra="forbid"``, a ``Field`` with a description for every option, no name that core uses.
        """
        options = getattr(algorithm, "Config", None)
        if options is None:
            return
        with pytest.raises(ValidationError, match=UNKNOWN_KEY):
            options.model_validate({UNKNOWN_KEY: 1})
        assert [name for name, field in options.model_fields.items() if not field.description] == []
        assert not set(options.model_fields) & set(Algorithm.model_fields)

    # -------------------------------------------------------------------------------------------------------- window

    def test_window_is_a_function_of_its_arguments(self, parts: Parts) -> None:
        """A resumed run calls it again, in another process and another order, and must get the same windows.

        Fix ``sde_window``: store nothing between calls, and draw from ``seed_of(seed, "window", ...)``.
        """
        places = [(iteration, group, seed) for iteration in range(3) for group in range(3) for seed in (0, 1)]
        first = [window(parts, *place) for place in places]
        again = [window(parts, *place) for place in reversed(places)]
        assert first == again[::-1]

    def test_window_lies_inside_the_steps(self, parts: Parts) -> None:
        """A window must end at the last step or before, because later steps are not sampled.

        Fix ``sde_window``: ``stop`` is at most ``steps``. If the window needs more steps than the suite has, raise
        ``steps``.
        """
        windows = [window(parts, iteration, group, 0) for iteration in range(5) for group in range(5)]
        assert [each for each in windows if each.stop > parts.config.rollout.steps] == []

    def test_a_group_shares_its_window_and_an_iteration_its_size(self, parts: Parts) -> None:
        """Samples that are compared have their noise in the same steps, and all rows can be stacked to one batch.

        Fix ``sde_window``: its start may depend on iteration and group, its size must not.
        """
        requests = parts.requests()
        assert len({(request.uid, request.window) for request in requests}) == len({r.uid for r in requests})
        assert len({request.window.size for request in requests}) == 1

    # ---------------------------------------------------------------------------------------------------- advantages

    @pytest.mark.parametrize(
        "rewards", [[0.1] * 6, [0.1, 0.7, 0.1, 0.7, 0.1, 0.7]], ids=["all equal", "equal in each group"]
    )
    def test_equal_rewards_teach_nothing(self, parts: Parts, rewards: list[float]) -> None:
        """A group with equal rewards gets exactly 0. Groups are identified by ``uid``; their rows may be in any order.

        Fix ``compute_advantages``: subtract the mean of the rows with equal ``uid`` before any division.
        """
        assert not advantages(parts, rewards, [5, 2, 5, 2, 5, 2]).any()

    def test_a_group_of_one_teaches_nothing(self, parts: Parts) -> None:
        """A group with one sample, because the others have no reward, gets exactly 0, not NaN.

        Fix ``compute_advantages``: the standard deviation of one sample is 0 (ddof 0), and the divisor needs an
        epsilon.
        """
        result = advantages(parts, [0.3, 0.1, 0.9, 0.4], [7, 1, 1, 1])
        assert result[0] == 0
        assert result[1:].any()

    def test_advantages_are_finite_and_in_the_order_of_the_rewards(self, parts: Parts) -> None:
        """Also for large and for nearly equal rewards; a better sample never gets less than a worse sample of its
        group.

        Fix ``compute_advantages``: fp32, an epsilon added to the standard deviation, clipping that keeps the order.
        """
        for rewards in ([0.0, 1e6, -1e6, 3.0], [1.0, 1.0 + 1e-6, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]):
            result = advantages(parts, rewards, [0] * 4)
            assert result.dtype == torch.float32
            assert result.isfinite().all()
            ranked = result[torch.tensor(rewards).argsort(stable=True)]
            assert (ranked.diff() >= 0).all(), (rewards, result)

    def test_advantages_follow_their_samples(self, parts: Parts) -> None:
        """Samples may come in any order.

        Fix ``compute_advantages``: return advantages in the order of ``rewards``.
        """
        rewards, uid = [0.1, 0.9, 0.4, 0.6, 0.8, 0.2], [0, 0, 0, 1, 1, 1]
        order = [4, 0, 3, 5, 2, 1]
        turned = advantages(parts, [rewards[i] for i in order], [uid[i] for i in order])
        torch.testing.assert_close(turned, advantages(parts, rewards, uid)[order], rtol=1e-6, atol=1e-6)

    # ---------------------------------------------------------------------------------------------------------- loss

    def test_one_loss_per_sample(self, parts: Parts) -> None:
        """The loss is (B, 1) with a gradient, metrics are (B, 1) without gradient, and the batch is not changed.

        Fix ``compute_loss``: do not average over the batch, detach the metrics, and do not write into ``batch``.
        """
        batch = prepared(parts, parts.batch())
        before = batch.clone()
        output = parts.hooks.compute_loss(policy=parts.backend.policy, batch=batch, steps=[0])
        assert output.loss.shape == (len(batch), 1)
        assert output.loss.isfinite().all()
        assert output.loss.requires_grad
        assert {n: (tuple(v.shape), v.requires_grad) for n, v in output.metrics.items()} == {
            n: ((len(batch), 1), False) for n in output.metrics
        }
        assert bool((batch == before).all())

    def test_steps_may_come_together(self, parts: Parts) -> None:
        """One call with all steps gives the same result as one call per step.

        Fix ``compute_loss``: column i of ``loss`` belongs to ``steps[i]``.
        """
        batch = prepared(parts, parts.batch())
        steps, policy = range(trajectory.steps_of(batch)), parts.backend.policy
        together = parts.hooks.compute_loss(policy=policy, batch=batch, steps=list(steps)).loss
        assert together.shape == (len(batch), len(steps))
        if parts.context.traits.whole_sequence:
            return
        alone = [parts.hooks.compute_loss(policy=policy, batch=batch, steps=[step]).loss for step in steps]
        torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)

    def test_rewards_steer_the_gradient(self, parts: Parts) -> None:
        """Other rewards give another gradient; otherwise the loss may look healthy, but nothing is learned.

        Fix ``compute_loss``, which must use ``batch["advantages"]``, or ``prepare_actor_batch``, which may transform
        them.
        """
        batch = parts.batch()
        if "rejected" in batch.keys():
            pytest.skip("the algorithm learns from pairs, without rewards")
        turned = parts.rewarded(batch, -batch["rewards"])
        there, back = gradient(parts, batch, GROUP_SIZE), gradient(parts, turned, GROUP_SIZE)
        assert there.any()
        assert (there - back).norm() > 1e-3 * there.norm()

    def test_preferences_steer_the_gradient(self, parts: Parts) -> None:
        """Exchanging chosen and rejected media in every pair changes the gradient.

        Fix ``compute_loss``: ``batch["latents"]`` are those of the chosen media, ``batch["rejected"]`` those of the
        rejected.
        """
        batch = parts.batch()
        if "rejected" not in batch.keys():
            pytest.skip("the algorithm learns from rewards, without pairs")
        turned = batch.clone()
        turned["latents"], turned["rejected"] = batch["rejected"], batch["latents"]
        there, back = gradient(parts, batch, GROUP_SIZE), gradient(parts, turned, GROUP_SIZE)
        assert there.any()
        assert (there - back).norm() > 1e-3 * there.norm()

    def test_the_first_update_is_on_policy(self, parts: Parts) -> None:
        """With unchanged weights the ratio is exactly 1, because replay computes the same as the rollout.

        Fix ``compute_loss``: the ratio is exp(``policy.evaluate(batch, [step])[0].log_prob`` - ``batch["log_probs"][:,
        step]``).
        """
        batch = prepared(parts, parts.batch())
        output = parts.hooks.compute_loss(policy=parts.backend.policy, batch=batch, steps=[0])
        if "ratio_mean" not in output.metrics:
            pytest.skip("the algorithm reports no ratio_mean")
        assert output.metrics["ratio_mean"].tolist() == [[1.0]] * len(batch)

    def test_micro_batches_do_not_matter(self, parts: Parts) -> None:
        """The loss of a sample depends only on its own row, because users choose the micro-batch size by memory.

        Fix ``compute_loss``: move means and normalisations over rows to ``compute_advantages`` or
        ``prepare_actor_batch``.
        """
        batch = parts.batch()
        whole = gradient(parts, batch, len(batch))
        for size in (1, 4):
            torch.testing.assert_close(gradient(parts, batch, size), whole, rtol=1e-4, atol=float(1e-5 * whole.norm()))

    def test_micro_batches_give_the_same_updates(
        self, algorithm: object, options: BaseModel | None, model: LoadedModel
    ) -> None:
        """Over five iterations with several updates each, gradient norms and weights agree to 1e-5.

        Fix ``compute_loss``, as above, or ``after_update``, if its state depends on the number of calls of
        ``compute_loss``.
        """
        sizes = {n: updated(algorithm, options, copy.deepcopy(model), self.steps, n) for n in (1, 4, 64)}
        norms, weights = sizes[64]
        for other_norms, other_weights in (sizes[1], sizes[4]):
            torch.testing.assert_close(other_norms, norms, rtol=1e-5, atol=1e-9)
            assert (other_weights - weights).norm() <= 1e-5 * weights.norm()

    def test_an_iteration_trains(self, parts: Parts) -> None:
        """One iteration of sampling, rewards and updates with core's engine and backend changes weights; all metrics
        are finite.

        Fix ``compute_loss`` or ``prepare_actor_batch``: no weight gets a gradient, or a metric is NaN.
        """
        before = copy.deepcopy(parts.model.parameters())
        figures = [parts.backend.update(parts.batch(seed), seed) for seed in range(2)]
        assert all(torch.tensor(list(each.values())).isfinite().all() for each in figures), figures
        assert any(not torch.equal(parameter, before[n]) for n, parameter in parts.model.parameters().items())


def assembled(algorithm: object, options: BaseModel | None, model: LoadedModel, steps: int, **train: Any) -> Parts:
    """The parts of a run with two prompts; ``train`` are keys of this section of the configuration."""
    sizes = {"steps": steps, "group_size": GROUP_SIZE}
    train = {"micro_batch_size": 4, "weight_decay": 0.0, **train}  # only the loss changes weights
    parts = assemble(model, algorithm=algorithm, options=options, prompts=("a", "b"), rollout=sizes, train=train)
    parts.nudge()
    return parts


def updated(
    algorithm: object, options: BaseModel | None, model: LoadedModel, steps: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient norms (5,) and changes of all weights (P,) over five iterations with micro-batches of ``size``."""
    # With an epsilon of the gradients' size, Adam does not amplify rounding of gradients that are almost 0.
    train = {"micro_batch_size": size, "mini_batch_prompts": 1, "inner_epochs": 2, "lr": 1e-2, "eps": 1e-2}
    parts = assembled(algorithm, options, model, steps, **train)
    before = torch.cat([p.detach().clone().flatten() for p in parts.model.parameters().values()])
    norms = [parts.backend.update(parts.batch(seed), seed)["actor/grad_norm"] for seed in range(5)]
    return torch.tensor(norms), torch.cat([p.detach().flatten() for p in parts.model.parameters().values()]) - before


def window(parts: Parts, iteration: int, group: int, seed: int) -> Window:
    """The window of the algorithm, or core's default."""
    steps = parts.config.rollout.steps
    return parts.hooks.sde_window(iteration=iteration, group=group, steps=steps, seed=seed)  # type: ignore[no-any-return]


def advantages(parts: Parts, rewards: list[float], uid: list[int]) -> torch.Tensor:
    """The result (N,) fp32 of the algorithm's hook."""
    values = torch.tensor(rewards)
    result = parts.hooks.compute_advantages(
        rewards=values, uid=torch.tensor(uid), components={"reward": values}, weights={"reward": 1.0}
    )
    assert result.shape == values.shape
    return result  # type: ignore[no-any-return]


def prepared(parts: Parts, batch: TensorDict) -> TensorDict:
    """The batch after ``prepare_actor_batch``."""
    policy = parts.backend.policy
    return parts.hooks.prepare_actor_batch(policy=policy, batch=batch, iteration=0, seed=0, total=lambda values: values)  # type: ignore[no-any-return]


def gradient(parts: Parts, batch: TensorDict, size: int) -> torch.Tensor:
    """(P,) gradient of the mean loss over samples and steps, summed over micro-batches of ``size`` samples."""
    batch = prepared(parts, batch)
    steps = trajectory.steps_of(batch)
    parameters: list[Any] = list(parts.model.parameters().values())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for part in batch.split(size):
        for step in range(steps):
            output = parts.hooks.compute_loss(policy=parts.backend.policy, batch=part, steps=[step])
            (output.loss.sum() / (len(batch) * steps)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in parameters])
