"""The trained model as algorithms see it, and the defaults of the two training hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
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
from omni_rl.schedulers.transition import Transition, joint_log_prob, transition


class TorchPolicy:
    """``omni_rl.contracts.interfaces.Policy`` over a model in this process.

    ``named`` holds alternative values of the trainable parameters (``reference``, ``ema``, ``old``), each by canonical
    name; ``weights(name)`` swaps them in without copying.
    """

    def __init__(self, model: LoadedModel, hooks: Any, config: Config) -> None:
        self.model = model
        self.hooks = hooks
        self.sde = Sde(**config.rollout.sde.model_dump())
        _, self.call = split_call(effective_call(config.rollout.call))
        self._micro_batch_size = config.train.micro_batch_size
        self.parameters: Mapping[str, torch.nn.Parameter] = model.parameters()
        self.named: dict[str, Tensors] = {}

    def predict(
        self, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any] | None = None
    ) -> Streams:
        """Velocity; see :class:`omni_rl.contracts.interfaces.Policy`."""
        call = self.call if call is None else call
        with self.model.compute():
            velocity = self.hooks.predict(model=self.model, x=x, t=t, conditioning=conditioning, call=call)
        return {name: v.float() for name, v in velocity.items()}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor) -> Streams:
        """Velocity under a batch's conditioning; see :class:`omni_rl.contracts.interfaces.Policy`."""
        conditioning = {name: value.to(self.device) for name, value in trajectory.conditioning_of(batch).items()}
        return self.predict(x, t, conditioning, call_of(batch, self.call))

    def evaluate(self, batch: TensorDict, step: int) -> Evaluation:
        """Replay one stored step; see :class:`omni_rl.contracts.interfaces.Policy`."""
        inputs = self.hooks.prepare_model_inputs(policy=self, batch=batch, step=step)
        log_prob, mean, _, _ = self.hooks.forward_and_sample_previous_step(
            policy=self, batch=batch, model_inputs=inputs, step=step
        )
        return Evaluation(
            log_prob, {n: replace(_transition_at(self, batch, step, n, mean[n]), mean=mean[n]) for n in mean}
        )

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, int], torch.Tensor]) -> torch.Tensor:
        """A figure of every stored step, (N, T); see :class:`omni_rl.contracts.interfaces.Policy`."""
        steps = range(batch["timesteps"].shape[1])

        def all_steps(part: TensorDict) -> torch.Tensor:
            return torch.stack([measure(part, step) for step in steps], dim=1)

        with torch.no_grad():
            return batches.in_parts(batch, self._micro_batch_size, all_steps).float().cpu()

    @contextlib.contextmanager
    def weights(self, name: str) -> Iterator[None]:
        """Swap named weights in; gradients are off inside, and the trained weights are back afterwards."""
        if name not in self.named:
            raise ConfigError(
                f"this run keeps no {name!r} weights", "full fine-tuning keeps a reference only if it is used"
            )
        current = {n: p.data for n, p in self.parameters.items()}
        self._place(self.named[name])
        try:
            with torch.no_grad():
                yield
        finally:
            self._place(current)

    def _place(self, values: Tensors) -> None:
        for name, parameter in self.parameters.items():
            parameter.data = values[name]


def call_of(batch: TensorDict, call: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline arguments that shaped these samples: the run's, overlaid with what the trajectory carries."""
    if "call" not in batch.keys():
        return dict(call)
    stored = {}
    for name, values in batch["call"].items():
        value = values[0].item()
        assert bool((values == value).all()), f"a micro-batch mixes values of call/{name}"
        stored[name] = _as_given(value, call.get(name))
    return {**call, **stored}


def _as_given(value: float, given: Any) -> bool | int | float:
    """A stored number in the type that it was given in; a row's own argument (``data.call``) is whole if it can be."""
    if isinstance(given, (bool, int, float)):
        return type(given)(value)
    return int(value) if value.is_integer() else value


@hookimpl
def prepare_model_inputs(policy: TorchPolicy, batch: TensorDict, step: int) -> Mapping[str, Any]:
    """x, t and conditioning of one stored step, on the policy's device."""
    device = policy.model.device
    x = {name: value.to(device) for name, value in trajectory.latents(batch, step).items()}
    conditioning = {name: value.to(device) for name, value in trajectory.conditioning_of(batch).items()}
    t = trajectory.at(batch, "timesteps", step).to(device)
    return {"x": x, "t": t, "conditioning": conditioning, "call": call_of(batch, policy.call)}


@hookimpl
def forward_and_sample_previous_step(
    policy: TorchPolicy, batch: TensorDict, model_inputs: Mapping[str, Any], step: int
) -> tuple[torch.Tensor, Streams, Streams, torch.Tensor]:
    """Velocity, transition, and the log-prob of what was stored."""
    velocity = policy.predict(**model_inputs)
    steps = {name: _transition_at(policy, batch, step, name, v) for name, v in velocity.items()}
    masks = {n: m.to(policy.model.device) for n, m in trajectory.masks_of(batch).items()}
    log_prob = joint_log_prob(steps, next_latents(policy, batch, step), masks, policy.sde.log_prob)
    sqrt_dt = next(iter(steps.values())).sqrt_dt
    return log_prob, {n: s.mean for n, s in steps.items()}, {n: s.std_dev_t for n, s in steps.items()}, sqrt_dt


def next_latents(policy: TorchPolicy, batch: TensorDict, step: int) -> Streams:
    """Stored latents after ``step``, per stream, (B, ...) fp32 on the policy's device."""
    return {n: value.to(policy.model.device) for n, value in trajectory.latents(batch, step, ahead=1).items()}


def _transition_at(
    policy: TorchPolicy, batch: TensorDict, step: int, stream: str, velocity: torch.Tensor
) -> Transition:
    device = policy.model.device
    x = trajectory.at(batch, ("latents", stream, "all"), step).to(device)
    sigma, sigma_next = (trajectory.at(batch, "sigmas", step, ahead).to(device) for ahead in (0, 1))  # (B,)
    return transition(x, velocity, sigma, sigma_next, policy.sde.noise_level, policy.sde.type)


_: type[Policy] = TorchPolicy
