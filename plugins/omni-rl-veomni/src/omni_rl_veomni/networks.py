"""VeOmni's networks, with the weights of a loaded pipeline, called as the pipeline calls diffusers' own.

VeOmni's own ``forward`` of a training step takes lists of samples and returns a loss. The functions below it have the
interface of diffusers; they are used here. VeOmni puts them into diffusers' classes when its registry is asked for a
network. That would change also what an engine in this process samples with, so the registry is not asked.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn
from veomni.models.diffusers.qwen_image.qwen_image_transformer import modeling_qwen_image_transformer as qwen_image
from veomni.models.diffusers.wan_t2v.wan_transformer import modeling_wan_transformer as wan
from veomni.models.module_utils import init_empty_weights

from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import ConfigError


class QwenImage(qwen_image.QwenImageTransformer2DModel):
    """VeOmni's Qwen-Image with the arguments and the output of diffusers' ``QwenImageTransformer2DModel``."""

    forward = qwen_image.QwenImageTransformer2DModel_forward


class Wan(wan.WanTransformer3DModel):
    """VeOmni's Wan with the arguments and the output of diffusers' ``WanTransformer3DModel``."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Velocity of latents (B, C, F, H, W), as diffusers' ``forward`` returns it."""
        if attention_kwargs:
            raise ConfigError("rollout.call.attention_kwargs: VeOmni's Wan takes none", "remove this key")
        output = wan.WanTransformer3DModel_forward(
            self, hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


NETWORKS: dict[str, Any] = {"QwenImageTransformer2DModel": QwenImage, "WanTransformer3DModel": Wan}
"""diffusers' class -> VeOmni's."""


def use(model: LoadedModel) -> None:
    """Put VeOmni's networks into the pipeline, in place of diffusers' denoisers, with the same weights.

    Raises:
        ConfigError: VeOmni has no network for a denoiser.
    """
    for name, denoiser in model.denoisers.items():
        kind = type(denoiser).__name__
        if kind not in NETWORKS:
            what = f"train.backend: VeOmni has no network for {kind} ({name} of {model.architecture})"
            raise ConfigError(what, f"set train.backend: torch; veomni trains {', '.join(sorted(NETWORKS))}")
        network = equal(denoiser).requires_grad_(False).eval().to(model.device)
        setattr(model.pipe, name, network)


def equal(denoiser: nn.Module) -> nn.Module:
    """VeOmni's network with a denoiser's weights and buffers, which they share."""
    kind = NETWORKS[type(denoiser).__name__]
    config = kind.config_class(**_sizes(denoiser))
    config._attn_implementation = "eager"  # attention of torch, for any precision and device
    with init_empty_weights():
        network: nn.Module = kind(config)
    network.load_state_dict(denoiser.state_dict(), assign=True)
    for path, buffer in denoiser.named_buffers():  # tables of positions, which no state has; their precision matters
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, buffer)
    return network


def _sizes(denoiser: Any) -> dict[str, Any]:
    """The arguments with which a denoiser of diffusers was built."""
    names = inspect.signature(type(denoiser).__init__).parameters
    return {name: value for name, value in denoiser.config.items() if name in names}
