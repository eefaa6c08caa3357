"""A flow with the linear velocity a x + b in float64, whose densities, divergences and gradients are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl.contracts import batches, trajectory
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.types import Evaluation, LossOutput, Streams, Tensors
from omni_rl.schedulers.randomness import randn, seed_of
from omni_rl.schedulers.transition import Transition, joint_log_prob, transition
from omni_rl.schedulers.types import SdeType


class LinearFlow:
    """``omni_rl.contracts.interfaces.Policy`` with the weights ``theta`` = (a, b); every x is (B, elements) float64.

    Args:
        theta, reference: (a, b), the trained weights and the copy ``reference``.
        eta, sde: noise level and SDE type of every step.
    """

    def __init__(
        self, theta: Sequence[float], reference: Sequence[float] = (0.0, 0.0), *, eta: float = 0.7, sde: SdeType = "sde"
    ) -> None:
        self.theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        self.device = torch.device("cpu")
        self.parameters = {"theta": self.theta}
        self.named = {"reference": {"theta": torch.tensor(reference, dtype=torch.float64)}}
        self._eta, self._sde = eta, sde

    def predict(
        self,
        x: Streams,
        t: torch.Tensor | None,
        conditioning: Tensors,
        call: Mapping[str, Any] | None = None,
        step: torch.Tensor | None = None,
    ) -> Streams:
        """A x + b."""
        del t, conditioning, call, step
        return {"x": self.theta[0] * x["x"] + self.theta[1]}

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor, step: torch.Tensor | None = None) -> Streams:
        """As :meth:`predict`; there is no conditioning."""
        del batch, step
        return self.predict(x, t, {})

    def step(self, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> Transition:
        """The transition from x (B, elements) with sigmas (B,)."""
        return transition(x, self.predict({"x": x}, None, {})["x"], sigma, sigma_next, self._eta, self._sde)

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        """Replay stored steps."""
        return [self._evaluated(batch, step) for step in steps]

    def _evaluated(self, batch: TensorDict, step: int) -> Evaluation:
        x, following = (trajectory.latents(batch, step, ahead)["x"] for ahead in (0, 1))
        sigma, sigma_next = (trajectory.at(batch, "sigmas", step, ahead) for ahead in (0, 1))
        moved = {"x": self.step(x, sigma, sigma_next)}
        return Evaluation(joint_log_prob(moved, {"x": following}, {}, "density"), moved)

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, Sequence[int]], Tensors]) -> Tensors:
        """Apply ``measure`` to every stored step: (N, T, ...) float64."""
        with torch.no_grad():
            measured = [(i, measure(rows, range(rows["timesteps"].shape[1]))) for i, rows in batches.forms(batch)]
        order = torch.cat([indices for indices, _ in measured]).argsort()
        return {name: torch.cat([found[name] for _, found in measured])[order] for name in measured[0][1]}

    @contextmanager
    def weights(self, name: str) -> Iterator[None]:
        """A context with another copy of theta."""
        trained = self.theta
        self.theta = self.named[name]["theta"]
        try:
            with torch.no_grad():
                yield
        finally:
            self.theta = trained

    def rollout(self, rows: int, sigmas: Sequence[float], seed: int = 0, elements: int = 1) -> TensorDict:
        """A batch of ``rows`` trajectories with ``elements`` independent numbers each; every step has noise."""
        table = torch.tensor(sigmas, dtype=torch.float64).expand(rows, -1)
        seeds = torch.tensor([[seed_of(seed, row, i) for i in range(len(sigmas))] for row in range(rows)])
        noise = torch.stack([torch.stack([randn(s, [elements]) for s in row]) for row in seeds.tolist()]).double()
        states = [noise[:, -1]]
        with torch.no_grad():
            for i in range(len(sigmas) - 1):
                states.append(self.step(states[-1], table[:, i], table[:, i + 1]).sample(noise[:, i]))
            batch = TensorDict(
                {
                    "latents": {"x": {"all": torch.stack(states, dim=1), "final": states[-1]}},
                    "draws": {"x": seeds[:, :-1]},
                    "sigmas": table,
                    "timesteps": 1000 * table[:, :-1],
                    "schedule": {"sigmas": table, "timesteps": 1000 * table[:, :-1]},
                    "sample_id": torch.arange(rows),
                },
                [rows],
            )
            now = self.evaluate(batch, range(len(sigmas) - 1))
            batch["log_probs"] = torch.stack([each.log_prob for each in now], dim=1)
        return batch


def assert_gradient(policy: LinearFlow, losses: torch.Tensor, expected: Callable[[torch.Tensor], Any]) -> None:
    """Check losses (B,) and their gradients with respect to theta against ``expected``, by central differences in
    float64.

    Args:
        expected: maps theta (2,) to losses (B,), computed without omni-rl and without autograd.
    """
    theta = policy.theta.detach()
    wanted = torch.as_tensor(expected(theta), dtype=torch.float64)
    torch.testing.assert_close(losses.detach().double(), wanted, rtol=1e-8, atol=1e-12)
    rows = [torch.autograd.grad(row, policy.theta, retain_graph=True)[0] for row in losses]
    for i, offset in enumerate(1e-6 * torch.eye(len(theta), dtype=torch.float64)):
        up, down = (torch.as_tensor(expected(theta + sign * offset), dtype=torch.float64) for sign in (1, -1))
        torch.testing.assert_close(torch.stack(rows)[:, i], (up - down) / 2e-6, rtol=2e-5, atol=1e-7)


_: type[Policy] = LinearFlow


def only_step(output: LossOutput) -> LossOutput:
    """An output (B,) from one of shape (B, 1), i.e. of a single step."""
    return LossOutput(output.loss[:, 0], {name: values[:, 0] for name, values in output.metrics.items()})
