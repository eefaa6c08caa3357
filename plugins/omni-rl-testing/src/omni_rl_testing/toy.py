"""A minimal pipeline and a simple algorithm for suites that can use any model.

The pipeline is a real diffusers pipeline (147 parameters, images of 3 x 4 x 4) without text encoder and VAE. Universal
adapter, engine and backend use it like a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import ConfigMixin
from tensordict import TensorDict
from torch import nn

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Window
from omni_rl.contracts.traits import AlgorithmTraits, Copy
from omni_rl.contracts.types import LossOutput
from omni_rl.objectives.advantages import group_advantages
from omni_rl.schedulers.randomness import randn, seed_of

SHAPE = (3, 4, 4)
WIDTH = 8
TOKENS = 2


class ToyDenoiser(ModelMixin, ConfigMixin):
    """A two-layer network over channels: velocity (B, 3, 4, 4) of latents, timestep (B,) and embeddings (B, L, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_to_config()
        self.inside = nn.Linear(SHAPE[0], WIDTH)
        self.time = nn.Linear(1, WIDTH)
        self.text = nn.Linear(WIDTH, WIDTH)
        self.outside = nn.Linear(WIDTH, SHAPE[0])

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """Return the velocity in a tuple, as diffusers transformers do with ``return_dict=False``."""
        condition = self.time(timestep[:, None] / 1000) + self.text(encoder_hidden_states.mean(1))  # (B, 8)
        hidden = torch.tanh(self.inside(hidden_states.movedim(1, -1)) + condition[:, None, None])  # (B, 4, 4, 8)
        return (self.outside(hidden).movedim(-1, 1),)


class ToyPipeline(DiffusionPipeline):
    """Embeddings are noise drawn from the prompt; images are the latents themselves."""

    def __init__(self, transformer: ToyDenoiser, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    def encode_prompt(self, prompt: list[str]) -> torch.Tensor:
        """Embeddings (B, 2, 8) fp32."""
        prompt_embeds = torch.stack([randn(seed_of(text), (TOKENS, WIDTH)) for text in prompt])
        return prompt_embeds

    @torch.no_grad()
    def __call__(
        self,
        prompt: list[str] | None = None,
        num_inference_steps: int = 4,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """Denoise latents (B, 3, 4, 4); with output type ``pt`` they are returned as images in [0, 1]."""
        if prompt_embeds is None:
            prompt_embeds = self.encode_prompt(prompt or [])
        if latents is None:
            latents = torch.randn(len(prompt_embeds), *SHAPE, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            velocity = self.transformer(latents, t.expand(len(latents)), prompt_embeds)[0]
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
        return (latents if output_type == "latent" else (latents / 2 + 0.5).clamp(0, 1),)


def toy_model(seed: int = 0) -> LoadedModel:
    """The toy pipeline with weights drawn from ``seed``; all weights are frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = ToyDenoiser()
    denoiser.requires_grad_(False).eval()
    pipe = ToyPipeline(denoiser, FlowMatchEulerDiscreteScheduler(shift=3.0))
    return LoadedModel(pipe, "ToyPipeline", Path("toy"), torch.device("cpu"), torch.float32)


class PolicyGradient:
    """REINFORCE with a group baseline; in every second group the window starts one step later."""

    def __init__(self, uses_reference: bool = False) -> None:
        self._keeps: frozenset[Copy] = frozenset({"reference"} if uses_reference else ())
        self.updates: list[int] = []

    @hookimpl
    def traits(self) -> AlgorithmTraits:
        """Keeps the reference if ``uses_reference``."""
        return AlgorithmTraits(keeps=self._keeps)

    @hookimpl
    def sde_window(self, group: int, steps: int) -> Window:
        """A window of all steps but two."""
        return Window(group % 2, group % 2 + max(steps - 2, 1))

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """Reward minus the mean of its group, (N,) fp32."""
        return group_advantages(rewards, uid, std="none")

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """Losses -A log p (B, S), with the log-prob as metric."""
        log_prob = torch.stack([now.log_prob for now in policy.evaluate(batch, steps)], dim=1)  # (B, S)
        return LossOutput(-batch["advantages"].to(log_prob)[:, None] * log_prob, {"log_prob": log_prob.detach()})

    @hookimpl
    def after_update(self, policy: Any, update: int) -> None:
        """Count the update."""
        self.updates.append(update)
