"""The backend suite fails one test for each way to break the contract. A sound backend: core/tests/training."""

from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager

import pytest
import torch

from omni_rl.training.backend import TorchBackend
from omni_rl.training.policy import TorchPolicy
from omni_rl_testing.backend import BackendContract, trainer
from omni_rl_testing.toy import toy_model


class Spilling(TorchBackend):
    """Also trains what is frozen."""

    def __init__(self, context):
        super().__init__(context)
        self.frozen = [p for p in self.model.pipe.transformer.parameters() if not p.requires_grad]

    def update(self, batch, iteration):
        for parameter in self.frozen:
            parameter.data += 1e-3
        return super().update(batch, iteration)


class Partial(TorchBackend):
    """Half of the weights were never given to the optimizer."""

    def __init__(self, context):
        super().__init__(context)
        del self._optimizer.param_groups[0]["params"][::2]


class Restless(TorchBackend):
    def update(self, batch, iteration):
        for parameter in self._parameters.values():
            parameter.data += 1e-6
        return super().update(batch, iteration)


class Stale(TorchBackend):
    """The policy lags one iteration behind."""

    def __init__(self, context):
        super().__init__(context)
        self.context = context

    def update(self, batch, iteration):
        old = copy.copy(self.model)
        old.pipe = copy.copy(old.pipe)
        old.pipe.transformer = copy.deepcopy(old.pipe.transformer)
        figures = super().update(batch, iteration)
        self.policy = TorchPolicy(old, self.context.hooks, self.context.config)
        return figures


class StepByStep(TorchBackend):
    """An optimizer step for every micro-batch."""

    def update(self, batch, iteration):
        parts = batch.split(self._config.micro_batch_size)
        return [super(StepByStep, self).update(part, iteration) for part in parts][-1]


class OnePass(TorchBackend):
    """Forgets the second pass over the samples."""

    def update(self, batch, iteration):
        self._config = self._config.model_copy(update={"inner_epochs": 1})
        return super().update(batch, iteration)


class LastFigures(TorchBackend):
    """Figures of the last samples instead of means."""

    def update(self, batch, iteration):
        figures = super().update(batch, iteration)
        return {**figures, "actor/log_prob": float(batch["log_probs"][-1].mean())}


class Forgetful(TorchBackend):
    """Without the optimizer's moments."""

    def state(self):
        tensors, extra = super().state()
        return {name: value for name, value in tensors.items() if not name.startswith("optimizer/")}, extra


class Unwritable(TorchBackend):
    def state(self):
        tensors, extra = super().state()
        return tensors, {**extra, "shapes": tuple(tensors)[:2]}


class Trusting(TorchBackend):
    def load_state(self, tensors, extra):
        for name, target in self._targets().items():
            if name in tensors and tensors[name].shape == target.shape:
                target.data.copy_(tensors[name])


class Lingering(TorchBackend):
    """Named weights stay."""

    def __init__(self, context):
        super().__init__(context)
        policy = self.policy

        @contextmanager
        def weights(name):
            policy._assign(policy.named[name])
            with torch.no_grad():
                yield

        policy.weights = weights


class Misnaming(TorchBackend):
    def weights(self, copy, form):
        for name, value in super().weights(copy, form):
            yield name.removeprefix("transformer."), value


class OneCopy(TorchBackend):
    """Whatever copy is asked for."""

    def weights(self, copy, form):
        return super().weights("trained", form)


class Nameless(TorchBackend):
    """No weight has a name."""

    def weights(self, copy, form):
        return iter(())

    def weight_names(self, form):
        return []


class CloseOnce(TorchBackend):
    def close(self):
        if hasattr(self, "closed"):
            raise AssertionError("closed already")
        self.closed = True


FAULTS = {
    Nameless: "test_weights_are_handed_out_by_name",
    CloseOnce: "test_closing_twice_is_closing",
    Misnaming: "test_weights_are_handed_out_by_name",
    OneCopy: "test_a_copy_is_handed_out_as_it_was_kept",
    Spilling: "test_an_update_moves_what_trains_and_nothing_else",
    Partial: "test_an_update_moves_what_trains_and_nothing_else",
    Restless: "test_a_learning_rate_of_zero_moves_nothing",
    Stale: "test_the_policy_is_what_is_sampled",
    StepByStep: "test_micro_batches_do_not_matter",
    OnePass: "test_an_update_takes_whole_prompts",
    LastFigures: "test_figures_are_finite_means_over_samples",
    Forgetful: "test_state_goes_on_exactly",
    Unwritable: "test_state_is_plain_data",
    Trusting: "test_what_does_not_fit_is_refused",
    Lingering: "test_named_weights_come_and_go",
}
TESTS = [name for name in dir(BackendContract) if name.startswith("test_")]


@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty, test):
    method = getattr(BackendContract(), test)
    asked = {name: "merged" for name in inspect.signature(method).parameters if name == "form"}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        method(**{**asked, "train": trainer(faulty, toy_model, lora=True, call={})})


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()


def test_a_backend_without_trained_weights_is_found():
    """No test may pass because it compares nothing with nothing."""

    class Empty(TorchBackend):
        def state(self):
            tensors, extra = super().state()
            return {name: value for name, value in tensors.items() if not name.startswith("policy/")}, extra

        def weight_names(self, form):
            return []

    train = trainer(Empty, toy_model, lora=True, call={})
    for test in ("test_an_update_moves_what_trains_and_nothing_else", "test_a_learning_rate_of_zero_moves_nothing"):
        with pytest.raises(AssertionError, match="state has no tensor"):
            getattr(BackendContract(), test)(train)
