"""A flow of numbers with velocity a x + b, in float64: its densities and gradients are known in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import pytest
import torch
from tensordict import TensorDict

from omni_rl.schedulers.transition import joint_log_prob, transition
from omni_rl.types import Evaluation

ETA = 0.7


class LinearFlow:
    """``omni_rl.types.Policy`` with the weights ``theta`` = (a, b)."""

    def __init__(self, theta: Sequence[float], reference: Sequence[float] = (0.0, 0.0)) -> None:
        self.theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        self.named = {"reference": {"theta": torch.tensor(reference, dtype=torch.float64)}}

    def predict(self, x, t, conditioning, call=None):
        del t, conditioning, call
        return {"x": self.theta[0] * x["x"] + self.theta[1]}

    def evaluate(self, batch, step):
        x, following = (batch["latents", "x", "all"][:, step + k] for k in (0, 1))
        velocity = self.predict({"x": x}, batch["timesteps"][:, step], {})["x"]
        sigma, sigma_next = (batch["sigmas"][:, step + k] for k in (0, 1))
        moved = {"x": transition(x, velocity, sigma, sigma_next, ETA, "sde")}
        return Evaluation(joint_log_prob(moved, {"x": following}, {}, "density"), moved)

    @contextmanager
    def weights(self, name):
        trained = self.theta
        self.theta = self.named[name]["theta"]
        try:
            with torch.no_grad():
                yield
        finally:
            self.theta = trained

    def rollout(self, rows: int, sigmas: Sequence[float], seed: int = 0, elements: int = 1) -> TensorDict:
        """A batch of ``rows`` trajectories of ``elements`` independent numbers each, every step noisy."""
        generator = torch.Generator().manual_seed(seed)
        table = torch.tensor(sigmas, dtype=torch.float64).expand(rows, -1)
        states = [torch.randn(rows, elements, generator=generator, dtype=torch.float64)]
        with torch.no_grad():
            for i in range(len(sigmas) - 1):
                velocity = self.predict({"x": states[-1]}, None, {})["x"]
                step = transition(states[-1], velocity, table[:, i], table[:, i + 1], ETA, "sde")
                states.append(step.sample(torch.randn(rows, elements, generator=generator, dtype=torch.float64)))
            latents = {"x": {"all": torch.stack(states, dim=1), "final": states[-1]}}
            batch = TensorDict({"latents": latents, "sigmas": table, "timesteps": 1000 * table[:, :-1]}, [rows])
            steps = range(len(sigmas) - 1)
            batch["log_probs"] = torch.stack([self.evaluate(batch, i).log_prob for i in steps], dim=1)
        return batch


@pytest.fixture(scope="session")
def linear_flow() -> Callable[..., LinearFlow]:
    """``linear_flow(theta, reference)``."""
    return LinearFlow
