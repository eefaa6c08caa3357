"""The policy that algorithms use, and the defaults of the hooks that replay stored steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl.contracts import batches, trajectory
from omni_rl.contracts.call import effective_call, split_call
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Sde
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Evaluation, Streams, Tensors
from omni_rl.errors import ConfigError
from omni_rl.parallel.agreement import largest
from omni_rl.parallel.layout import data_ranks
from omni_rl.parallel.whole import own_part
from omni_rl.schedulers.transition import Transition, joint_log_prob, transition
from omni_rl.training.dealing import lent_row
from omni_rl.training.in_step import InStep


class TorchPolicy:
    """``omni_rl.contracts.interfaces.Policy`` for a model in this process.

    ``named`` holds copies of the trainable parameters (``reference``, ``ema``, ``old``), each by canonical name;
    ``weights(name)`` puts a copy into the model: without copying data, unless the weights are sharded.
    """

    def __init__(self, model: LoadedModel, hooks: Any, config: Config) -> None:
        self.model = model
        self.hooks = hooks
        self.sde = Sde(**config.rollout.sde.model_dump())
        _, self.call = split_call(effective_call(config.rollout.call))
        self._micro_batch_size = config.train.micro_batch_size
        self.parameters: Mapping[str, torch.nn.Parameter] = model.parameters()
        self.named: dict[str, Tensors] = {}
        self._in_step = InStep(model.denoisers) if model.sharded else None
        if self._in_step is not None:
            model.in_step = self._in_step.section
        self._trained: Tensors | None = None  # while the model has a copy
        self._copy: Tensors | None = None  # the copy that the model has

    def predict(
        self,
        x: Streams,
        t: torch.Tensor,
        conditioning: Tensors,
        call: Mapping[str, Any] | None = None,
        step: torch.Tensor | None = None,
    ) -> Streams:
        """Velocity (B, ...) fp32 per stream; see :class:`omni_rl.contracts.interfaces.Policy`."""
        call = self.call if call is None else call
        with self.model.compute(), self.model.in_step():
            velocity = self.hooks.predict(model=self.model, x=x, t=t, conditioning=conditioning, call=call, step=step)
        found = {name: v.float() for name, v in velocity.items()}
        return self._in_step.complete(found) if self._in_step else found

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor, step: torch.Tensor | None = None) -> Streams:
        """Velocity with the conditioning of a batch; see :class:`omni_rl.contracts.interfaces.Policy`."""
        conditioning = {name: value.to(self.device) for name, value in trajectory.conditioning_of(batch).items()}
        return self.predict(x, t, conditioning, call_of(batch, self.call), step)

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        """Replay stored steps; see :class:`omni_rl.contracts.interfaces.Policy`."""
        inputs = self.hooks.prepare_model_inputs(policy=self, batch=batch, steps=steps)
        log_probs, means, _, _ = self.hooks.forward_and_sample_previous_step(
            policy=self, batch=batch, model_inputs=inputs, steps=steps
        )
        return [
            Evaluation(
                log_probs[:, place],
                {
                    n: replace(_transition_at(self, batch, step, n, m[:, place]), mean=m[:, place])
                    for n, m in means.items()
                },
            )
            for place, step in enumerate(steps)
        ]

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, Sequence[int]], Tensors]) -> Tensors:
        """Apply ``measure`` to every stored step; see :class:`omni_rl.contracts.interfaces.Policy`."""

        def all_steps(part: TensorDict) -> Tensors:
            measured = [measure(part, [step]) for step in range(part["timesteps"].shape[1])]
            return {name: torch.cat([each[name] for each in measured], dim=1) for name in measured[0]}

        with torch.no_grad():
            if data_ranks().size == 1:
                return batches.in_parts(batch, self._micro_batch_size, all_steps)
            return self._map_on_ranks(batch, all_steps)

    def _map_on_ranks(self, batch: TensorDict, all_steps: Callable[[TensorDict], Tensors]) -> Tensors:
        """Apply ``all_steps`` to micro-batches. With sharded weights, a rank that has fewer of them repeats one row.

        A rank without rows computes another rank's row: the result then has no rows, but names and shapes.
        """
        spare = lent_row(batch)
        rows = batch if len(batch) else spare
        own = sum(1 for _ in batches.parts(rows, self._micro_batch_size))
        most = int(largest(torch.tensor(own), data_ranks())) if self.model.sharded else own
        found = batches.in_parts(rows, self._micro_batch_size, all_steps)
        for _ in range(own, most):
            all_steps(spare)
        return found if len(batch) else {name: values[:0] for name, values in found.items()}

    @contextlib.contextmanager
    def weights(self, name: str) -> Iterator[None]:
        """A context in which the model has the copy ``name``, without gradients; restores the trained weights.

        Raises:
            ConfigError: the run does not keep this copy.
        """
        if name not in self.named:
            raise ConfigError(
                f"this run keeps no {name!r} weights", "add it to the algorithm's trait `keeps`, or set train.ema"
            )
        outermost = self._trained is None
        before, current = self._copy, self._current()
        if outermost:
            self._trained = current
        try:
            self._assign(self.named[name])
            self._copy = self.named[name]
            with torch.no_grad():
                yield
        finally:
            self._assign(current)
            self._copy = before
            if outermost:
                self._trained = None

    def restore_trained(self) -> None:
        """Put the trained weights back if :meth:`weights` was interrupted by a signal while it did so."""
        if self._trained is not None:
            self._assign(self._trained)
            self._trained = self._copy = None

    def _current(self) -> Tensors:
        """The weights that the model has: of sharded ones, a copy of this rank's part, because they are overwritten."""
        if not self.model.sharded:
            return {n: p.data for n, p in self.parameters.items()}
        return self._copy or {n: own_part(p).clone() for n, p in self.parameters.items()}

    def _assign(self, values: Tensors) -> None:
        for name, parameter in self.parameters.items():
            if self.model.sharded:  # FSDP has the address of each part
                own_part(parameter).copy_(own_part(values[name]))
            else:
                parameter.data = values[name]


def call_of(batch: TensorDict, call: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline arguments of these samples: the numbers that the trajectory stores, and all others of the run.

    A number of the run that the trajectory does not store was null in the rows (``data.call``).
    """
    stored = dict(batch["call"].items()) if "call" in batch.keys() else {}
    for name, values in stored.items():
        assert bool((values == values[0]).all()), f"a micro-batch mixes values of call/{name}"
    others = {name: value for name, value in call.items() if not isinstance(value, (bool, int, float))}
    return {**others, **{name: values[0].item() for name, values in stored.items()}}


@hookimpl
def prepare_model_inputs(policy: TorchPolicy, batch: TensorDict, steps: Sequence[int]) -> Mapping[str, Any]:
    """Arguments of ``policy.predict`` for S stored steps: (B * S, ...) on the policy's device, first step first."""
    device = policy.model.device
    latents = [trajectory.latents(batch, step) for step in steps]
    x = {name: torch.cat([each[name] for each in latents]).to(device) for name in latents[0]}
    conditioning = {n: torch.cat([v] * len(steps)).to(device) for n, v in trajectory.conditioning_of(batch).items()}
    t = torch.cat([trajectory.at(batch, "timesteps", step) for step in steps]).to(device)
    index = torch.cat([trajectory.schedule_index(batch, step) for step in steps]).to(device)
    return {"x": x, "t": t, "conditioning": conditioning, "call": call_of(batch, policy.call), "step": index}


@hookimpl
def forward_and_sample_previous_step(
    policy: TorchPolicy, batch: TensorDict, model_inputs: Mapping[str, Any], steps: Sequence[int]
) -> tuple[torch.Tensor, Streams, Streams, torch.Tensor]:
    """Compute all velocities in one forward, then each step's transition and the log-prob of the stored latents."""
    velocity = policy.predict(**model_inputs)
    parts = [
        {n: v[place * len(batch) : (place + 1) * len(batch)] for n, v in velocity.items()}
        for place in range(len(steps))
    ]
    transitions = [
        {n: _transition_at(policy, batch, step, n, v) for n, v in part.items()}
        for step, part in zip(steps, parts, strict=True)
    ]
    masks = {n: m.to(policy.model.device) for n, m in trajectory.masks_of(batch).items()}
    log_probs = [
        joint_log_prob(each, next_latents(policy, batch, step), masks, policy.sde.log_prob)
        for step, each in zip(steps, transitions, strict=True)
    ]
    means, stds = (
        {n: torch.stack([getattr(each[n], field) for each in transitions], dim=1) for n in velocity}
        for field in ("mean", "std_dev_t")
    )
    sqrt_dt = torch.stack([next(iter(each.values())).sqrt_dt for each in transitions], dim=1)
    return torch.stack(log_probs, dim=1), means, stds, sqrt_dt


def next_latents(policy: TorchPolicy, batch: TensorDict, step: int) -> Streams:
    """Stored latents after training step ``step``: (B, ...) fp32 per stream, on the policy's device."""
    return {n: value.to(policy.model.device) for n, value in trajectory.latents(batch, step, ahead=1).items()}


def _transition_at(
    policy: TorchPolicy, batch: TensorDict, step: int, stream: str, velocity: torch.Tensor
) -> Transition:
    device = policy.model.device
    x = trajectory.at(batch, ("latents", stream, "all"), step).to(device)
    sigmas = trajectory.sigmas_key(batch, stream)
    sigma, sigma_next = (trajectory.at(batch, sigmas, step, ahead).to(device) for ahead in (0, 1))  # (B,)
    first = (trajectory.schedule_index(batch, step) == 0).to(device)  # (B,)
    return transition(x, velocity, sigma, sigma_next, policy.sde.noise_level, policy.sde.type, first)


_: type[Policy] = TorchPolicy
