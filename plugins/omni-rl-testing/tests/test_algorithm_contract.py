"""The algorithm suite passes a sound algorithm and fails one test for each way to break the contract."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.contracts.types import LossOutput
from omni_rl.objectives.forward_process import ForwardOptions, ForwardProcess, noised_at
from omni_rl_testing.algorithm import AlgorithmContract, assembled
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import PolicyGradient, toy_model

STEPS = 6
TWO_LEVELS = [0.1, 0.7, 0.1, 0.7, 0.1, 0.7]


def log_probs(policy, batch, steps):
    """(B, S) under the current weights."""
    return torch.stack([now.log_prob for now in policy.evaluate(batch, steps)], dim=1)


class Clipped(PolicyGradient):
    """With options and a ratio."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        clip: float = Field(5.0, description="of advantages")

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        ratio = (log_probs(policy, batch, steps) - batch["log_probs"][:, steps]).exp()
        return LossOutput(-batch["advantages"][:, None] * ratio, {"ratio_mean": ratio.detach()})


class Lenient(Clipped):
    class Config(Clipped.Config):
        model_config = ConfigDict(extra="ignore")


class Undescribed(Clipped):
    class Config(Clipped.Config):
        beta: float = 0.0


class Shadowing(Clipped):
    class Config(Clipped.Config):
        plugin: str = Field("", description="already a key of the section")


class Counted(PolicyGradient):
    """The window of a run that was not interrupted."""

    calls = itertools.count()

    @hookimpl
    def sde_window(self, steps):
        start = next(self.calls) % 2
        return Window(start, start + 1)


class TooLong(PolicyGradient):
    @hookimpl
    def sde_window(self, steps):
        return Window(1, steps + 1)


class Ragged(PolicyGradient):
    @hookimpl
    def sde_window(self, group):
        return Window(0, group + 1)


class BatchCentred(PolicyGradient):
    @hookimpl
    def compute_advantages(self, rewards):
        return rewards - rewards.mean()


class Rounded(PolicyGradient):
    """fp32 means of equal floats differ from them, and a tiny number divides the difference."""

    @hookimpl
    def compute_advantages(self, rewards, uid):
        found = torch.zeros_like(rewards)
        for group in uid.unique():
            rows = uid == group
            found[rows] = (rewards[rows] - rewards[rows].sum() * (1 / rows.sum())) / (rewards[rows].std() + 1e-8)
        return found


class SampleStd(PolicyGradient):
    """Divides the sum of squares by n - 1, as torch.std does unless told otherwise."""

    @hookimpl
    def compute_advantages(self, rewards, uid):
        found = torch.zeros_like(rewards)
        for group in uid.unique():
            member = rewards[uid == group]
            if len(member) == 1 or member.min() < member.max():
                off = member - member.mean()
                found[uid == group] = off / ((off.square().sum() / (len(member) - 1)).sqrt() + 1e-4)
        return found


class WrongSign(PolicyGradient):
    @hookimpl
    def compute_advantages(self, rewards, uid):
        return -super().compute_advantages(rewards, uid)


class Neighbourly(PolicyGradient):
    """Takes rows that lie together for a group."""

    @hookimpl
    def compute_advantages(self, rewards, uid):
        return super().compute_advantages(rewards, torch.arange(len(rewards)) // 3)


class Scalar(PolicyGradient):
    @hookimpl
    def compute_loss(self, policy, batch, steps):
        return LossOutput(super().compute_loss(policy, batch, steps).loss.mean())


class Attached(PolicyGradient):
    """A figure that keeps the graph of every micro-batch alive."""

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        loss = super().compute_loss(policy, batch, steps).loss
        return LossOutput(loss, {"loss_again": loss})


class Meddling(PolicyGradient):
    @hookimpl
    def compute_loss(self, policy, batch, steps):
        batch["advantages"] *= 0.5
        return super().compute_loss(policy, batch, steps)


class Indifferent(PolicyGradient):
    @hookimpl
    def compute_loss(self, policy, batch, steps):
        return LossOutput(-log_probs(policy, batch, steps))


class OtherStep(Clipped):
    """Compares with the log-prob of another step."""

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        ratio = (log_probs(policy, batch, steps) - batch["log_probs"][:, [step - 1 for step in steps]]).exp()
        return LossOutput(-batch["advantages"][:, None] * ratio, {"ratio_mean": ratio.detach()})


class Accumulating(PolicyGradient):
    """Divides by the rows at hand, as an average over micro-batches of different size does."""

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        output = super().compute_loss(policy, batch, steps)
        return replace(output, loss=output.loss / len(batch))


class BatchNormalised(PolicyGradient):
    @hookimpl
    def compute_loss(self, policy, batch, steps):
        scale = batch["advantages"].abs().mean() + 1e-3
        return LossOutput(super().compute_loss(policy, batch, steps).loss / scale)


class FirstStepOnly(PolicyGradient):
    """Answers every step with the loss of the first."""

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        loss = super().compute_loss(policy, batch, steps[:1]).loss
        return LossOutput(loss.expand(-1, len(steps)))


class Silent(PolicyGradient):
    @hookimpl
    def compute_loss(self, policy, batch, steps):
        return LossOutput(0.0 * super().compute_loss(policy, batch, steps).loss)


class Undecided(ForwardProcess):
    """Learns from pairs, and from both pictures of a pair alike."""

    @hookimpl
    def traits(self, config):
        return AlgorithmTraits(offline=True, sde=())

    @hookimpl
    def prepare_actor_batch(self, batch, iteration, seed):
        return ForwardOptions().noised(batch, iteration, seed)

    def loss_at(self, policy, batch, step):
        sides = [noised_at(batch, step, policy.device, side) for side in ("latents", "rejected")]
        return LossOutput(sum(at.error(policy.velocity(batch, at.x, at.t)) for at in sides))


FAULTS = {
    Lenient: "test_options_are_strict_described_and_its_own",
    Undescribed: "test_options_are_strict_described_and_its_own",
    Shadowing: "test_options_are_strict_described_and_its_own",
    Counted: "test_window_is_a_function_of_its_arguments",
    TooLong: "test_window_lies_inside_the_steps",
    Ragged: "test_a_group_shares_its_window_and_an_iteration_its_size",
    BatchCentred: "test_equal_rewards_teach_nothing",
    Rounded: "test_equal_rewards_teach_nothing",
    SampleStd: "test_a_group_of_one_teaches_nothing",
    WrongSign: "test_advantages_are_finite_and_in_the_order_of_the_rewards",
    Neighbourly: "test_advantages_follow_their_samples",
    Scalar: "test_one_loss_per_sample",
    Attached: "test_one_loss_per_sample",
    Meddling: "test_one_loss_per_sample",
    FirstStepOnly: "test_steps_may_come_together",
    Indifferent: "test_rewards_steer_the_gradient",
    Undecided: "test_preferences_steer_the_gradient",
    OtherStep: "test_the_first_update_is_on_policy",
    BatchNormalised: "test_micro_batches_do_not_matter",
    Accumulating: "test_micro_batches_give_the_same_updates",
    Silent: "test_an_iteration_trains",
}
TESTS = [name for name in dir(AlgorithmContract) if name.startswith("test_")]


def run(test: str, algorithm: object) -> None:
    method = getattr(AlgorithmContract(), test)
    options = getattr(algorithm, "Config", lambda: None)()
    given = {"algorithm": algorithm, "options": options, "model": toy_model(), "rewards": TWO_LEVELS}
    needed = inspect.signature(method).parameters
    if "parts" in needed:
        given["parts"] = assembled(algorithm, options, toy_model(), STEPS)
    method(**{name: given[name] for name in needed})


@pytest.mark.parametrize("sound", [PolicyGradient, Clipped])
class TestSound(AlgorithmContract):
    @pytest.fixture
    def options(self, sound):
        return Clipped.Config() if sound is Clipped else None

    @pytest.fixture
    def algorithm(self, sound):
        return sound()


@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty, test):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(test, faulty())


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()


class Renamed:
    """Keeps its options under a name of its own."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        keep: bool = Field(False, description="keep the reference")

    def __init__(self, config):
        self._mine = config

    @hookimpl
    def traits(self, config):
        return AlgorithmTraits(keeps=frozenset({"reference"} if config.keep else ()))


def test_traits_get_the_options_that_are_passed():
    options = Renamed.Config(keep=True)
    parts = assemble(toy_model(), algorithm=Renamed(options), options=options)
    assert parts.context.traits.keeps == {"reference"}


def test_options_are_asked_for():
    with pytest.raises(TypeError, match="Renamed has options"):
        assemble(toy_model(), algorithm=Renamed(Renamed.Config()))
