"""Contract tests of backends. See :class:`BackendContract`."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Form
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.traits import Copy
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError
from omni_rl_testing.parts import POLICY, Parts, assemble
from omni_rl_testing.toy import toy_model
from omni_rl_testing.witness import Witness

LORA = {"rank": 2, "alpha": 4.0}
UPDATES_BEFORE = "actor/updates_before"
"""The metric of :class:`omni_rl_testing.witness.Witness`."""

Train = Callable[..., Parts]


class BackendContract:
    """Checks that a run can use a backend. Inherit it and supply one fixture. Every test runs with LoRA and with the
    full model. The tests read and change weights through the backend only, so they may be in another process.

    ``backend``: the object of the entry point. Called with a :class:`Context`, it returns a backend that trains the
    model of ``context.load_model``. In another process, ``context.spec`` rebuilds the hooks, and
    ``context.spec.config["model"]["path"]`` is the model's folder.

    ``make_model`` (optional): a function that returns a new model with equal weights in every call; default: the toy
    pipeline, which exists in memory only. A backend in another process needs a model that was loaded from a folder.

    ``call`` (optional): arguments for the pipeline's ``__call__``; default: none.

    Attributes:
        tolerance: largest allowed relative difference between micro-batch sizes.
    """

    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """Make the toy pipeline."""
        return toy_model

    @pytest.fixture
    def call(self) -> dict[str, Any]:
        """No arguments for the pipeline's ``__call__``."""
        return {}

    @pytest.fixture(params=["lora", "full"])
    def train(
        self,
        request: pytest.FixtureRequest,
        backend: Callable[[Context], Backend],
        make_model: Callable[[], LoadedModel],
        call: dict[str, Any],
    ) -> Iterator[Train]:
        """``train(lr=..., ...)`` returns new parts with the backend and these options of the section ``train``."""
        make = trainer(backend, make_model, request.param == "lora", call)
        with contextlib.ExitStack() as stack:
            yield lambda **options: stack.enter_context(contextlib.closing(make(**options)))

    # ---------------------------------------------------------------------------------------------------- what moves

    def test_an_update_moves_what_trains_and_nothing_else(self, train: Train) -> None:
        """Every trained tensor changes. Frozen weights do not: with the reference in place, log-probs are equal to the
        bit before and after.

        Fix ``update``: the optimizer must hold exactly the parameters that ``weight_names("none")`` lists.
        """
        parts = train()
        parts.nudge()
        batch = sampled(parts)
        before, frozen = parts.trained(), under_reference(parts, batch)
        parts.backend.update(batch, 0)
        moved = {name for name, value in parts.trained().items() if not torch.equal(value, before[name])}
        assert moved == set(parts.backend.weight_names("none"))
        assert torch.equal(under_reference(parts, batch), frozen)

    def test_a_learning_rate_of_zero_moves_nothing(self, train: Train) -> None:
        """With lr 0, weight decay, momentum and moving averages change nothing either. Experiments use this as control
        run.

        Fix ``update``: weight decay is decoupled and scaled by the learning rate.
        """
        parts = train(lr=0.0, weight_decay=0.1)
        before = parts.trained()
        parts.backend.update(sampled(parts), 0)
        assert_equal(parts.trained(), before)

    def test_the_policy_is_what_is_sampled(self, train: Train) -> None:
        """After an update, the policy replays samples of the updated weights exactly.

        Fix ``policy``: it must evaluate the same weights that ``update`` changes.
        """
        parts = train()
        parts.backend.update(sampled(parts), 0)
        batch = sampled(parts)
        with torch.no_grad():
            replayed = parts.backend.policy.evaluate(batch, [0])[0].log_prob.cpu()
        torch.testing.assert_close(replayed, batch["log_probs"][:, 0], rtol=self.tolerance, atol=self.tolerance)

    # ------------------------------------------------------------------------------------------------------ geometry

    def test_micro_batches_do_not_matter(self, train: Train) -> None:
        """Gradient norms and weights are equal for every micro-batch size, also after a second pass over the samples.

        Fix ``update``: divide by the samples and steps of the mini-batch, not of the micro-batch, and clip once at the
        end.
        """
        reference = trained(train(micro_batch_size=6, inner_epochs=2, max_grad_norm=1e-3))
        for size in (1, 4):
            figures, change = trained(train(micro_batch_size=size, inner_epochs=2, max_grad_norm=1e-3))
            assert figures["actor/grad_norm"] == pytest.approx(reference[0]["actor/grad_norm"], rel=self.tolerance)
            assert figures["actor/loss"] == pytest.approx(reference[0]["actor/loss"], rel=1e-4, abs=1e-7)
            assert (change - reference[1]).norm() <= self.tolerance * reference[1].norm()

    def test_an_update_takes_whole_prompts(self, train: Train) -> None:
        """With three prompts, two prompts per update and two passes there are four updates, counted over the whole run.

        Fix ``update``: use ``train.mini_batch_prompts`` prompts per optimizer update, and call ``after_update`` after
        each.
        """
        parts = train(mini_batch_prompts=2, inner_epochs=2)
        figures = [parts.backend.update(sampled(parts), iteration) for iteration in range(2)]
        # The means of 0, 1, 2, 3 and of 4, 5, 6, 7.
        assert [row[UPDATES_BEFORE] for row in figures] == pytest.approx([1.5, 5.5])

    def test_figures_are_finite_means_over_samples(self, train: Train) -> None:
        """``actor/<name>`` is the mean of an algorithm's metric over samples and steps, for every micro-batch size.

        Fix ``update``: weight the metrics of a micro-batch by its number of rows.
        """
        parts = train(micro_batch_size=4, lr=0.0)
        batch = sampled(parts)
        figures = parts.backend.update(batch, 0)
        assert {"actor/loss", "actor/grad_norm", "actor/lr", "actor/log_prob"} <= figures.keys()
        assert all(math.isfinite(value) for value in figures.values()), figures
        assert figures["actor/log_prob"] == pytest.approx(float(batch["log_probs"].mean()), rel=1e-4)

    # ------------------------------------------------------------------------------------------------------- weights

    @pytest.mark.parametrize("form", ["merged", "adapter"])
    def test_weights_are_handed_out_by_name(self, train: Train, form: Form) -> None:
        """An engine in another process gets every weight once, in fp32, with the name that ``weight_names`` returns.

        Fix ``weights`` or ``weight_names``: both return the same names in the same order, for every copy.
        """
        parts = train()
        if form == "adapter" and parts.config.model.lora is None:
            pytest.skip("no LoRA is trained")
        copies: tuple[Copy, ...] = ("trained", "reference")
        for copy in copies:
            sent = list(parts.backend.weights(copy, form))
            assert sent, f"no weight of the copy {copy}"
            assert [name for name, _ in sent] == list(parts.backend.weight_names(form))
            assert {value.dtype for _, value in sent} == {torch.float32}

    def test_a_copy_is_handed_out_as_it_was_kept(self, train: Train) -> None:
        """The copy of the initial weights does not change, and reading it does not change the trained weights.

        Fix ``weights``: yield the copy's values, and restore the trained weights afterwards.
        """
        parts = train()
        first = {name: value.clone() for name, value in parts.backend.weights("trained", "merged")}
        parts.nudge()
        before = parts.trained()
        reference = dict(parts.backend.weights("reference", "merged"))
        now = dict(parts.backend.weights("trained", "merged"))
        assert_equal(parts.trained(), before)
        assert_equal(reference, first)
        assert any(not torch.equal(now[name], value) for name, value in first.items())

    # --------------------------------------------------------------------------------------------------------- state

    def test_state_goes_on_exactly(self, train: Train) -> None:
        """A new backend with other weights that loads the state continues bit for bit, in weights and metrics.

        Fix ``state`` and ``load_state``: save weights, optimizer, averages, schedule and counters; copy tensors when
        loading.
        """
        options = {"ema": {"decay": 0.5, "every": 2}, "warmup": 3}
        parts, other = train(**options), train(**options)
        batch = sampled(parts)
        parts.backend.update(batch, 0)
        tensors, extra = parts.backend.state()
        written, loaded = ({name: tensor.clone() for name, tensor in tensors.items()} for _ in range(2))
        other.nudge()
        other.backend.load_state(loaded, json.loads(json.dumps(extra)))
        assert_equal(other.backend.state()[0], written)
        figures = [each.backend.update(batch, 1) for each in (parts, other)]
        for row in figures:
            row.pop(UPDATES_BEFORE)  # the algorithm of a new run has seen none
        assert figures[0] == figures[1]
        assert_equal(other.backend.state()[0], parts.backend.state()[0])
        assert_equal(loaded, written)  # a file's tensors may be mapped into memory

    def test_state_is_plain_data(self, train: Train) -> None:
        """The state can be written as safetensors and JSON, and its tensor names are unique.

        Fix ``state``: contiguous tensors on the CPU; everything else in the mapping for JSON. The group ``policy`` has
        the names of ``weight_names("none")``.
        """
        parts = train()
        parts.backend.update(sampled(parts), 0)
        tensors, extra = parts.backend.state()
        assert parts.trained().keys() == set(parts.backend.weight_names("none"))
        assert {(value.device.type, value.is_contiguous()) for value in tensors.values()} == {("cpu", True)}
        assert json.loads(json.dumps(extra)) == extra

    def test_what_does_not_fit_is_refused(self, train: Train) -> None:
        """A tensor that is missing, has another shape or is unknown means that the checkpoint belongs to another
        configuration.

        Fix ``load_state``: compare names and shapes first, and raise CheckpointError with the name.
        """
        parts = train()
        parts.backend.update(sampled(parts), 0)
        tensors, extra = parts.backend.state()
        name = max((n for n in tensors if n.startswith(POLICY)), key=lambda n: tensors[n].ndim)
        missing = {n: t for n, t in tensors.items() if n != name}
        for wrong in (missing, {**tensors, name: tensors[name][:1, :1]}, {**tensors, "stranger": torch.zeros(1)}):
            with pytest.raises(CheckpointError):
                train().backend.load_state(wrong, extra)

    def test_named_weights_come_and_go(self, train: Train) -> None:
        """Inside ``weights(name)`` the policy uses that copy; afterwards the trained weights are back, bit for bit.

        Fix ``policy.weights``: exchange the values under no_grad, and restore the trained weights.
        """
        parts = train()
        parts.nudge()
        batch, before = sampled(parts), parts.trained()
        policy = parts.backend.policy
        with policy.weights("reference"):
            other = policy.evaluate(batch, [0])[0].log_prob
        assert_equal(parts.trained(), before)
        assert not other.requires_grad
        assert not torch.equal(other, policy.evaluate(batch, [0])[0].log_prob.detach())

    def test_closing_twice_is_closing(self, train: Train) -> None:
        """A run may close its backend twice, also after an error.

        Fix ``close``: release all resources once.
        """
        parts = train()
        parts.backend.close()
        parts.backend.close()


def trainer(
    backend: Callable[[Context], Backend], make_model: Callable[[], LoadedModel], lora: bool, call: dict[str, Any]
) -> Train:
    """``train(lr=..., ...)``, see :class:`BackendContract`."""

    def make(**options: Any) -> Parts:
        train = {"lr": 1e-2, **options}
        model, rollout = {"lora": LORA if lora else None}, {"call": call}
        return assemble(make_model(), algorithm=Witness(), backend=backend, model=model, rollout=rollout, train=train)

    return make


def sampled(parts: Parts) -> TensorDict:
    """One iteration's batch, sampled with the trained weights."""
    parts.sync()
    return parts.batch()


def under_reference(parts: Parts, batch: TensorDict) -> torch.Tensor:
    """Log-probs (N,) of the first stored step, with the initial weights in place."""
    with parts.backend.policy.weights("reference"):
        return parts.backend.policy.evaluate(batch, [0])[0].log_prob


def trained(parts: Parts) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of one iteration's updates, and the change (P,) of the trained weights."""
    parts.nudge()
    batch, before = sampled(parts), parts.trained()
    figures = parts.backend.update(batch, 0)
    return figures, torch.cat([(value - before[name]).flatten() for name, value in parts.trained().items()])


def assert_equal(found: Tensors, expected: Tensors) -> None:
    """Fail unless both mappings have the same tensors, bit for bit, and at least one."""
    assert expected
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
