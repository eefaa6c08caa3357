"""The two sides of the replay benchmark: one velocity, forward and backward, through the pipeline and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from diffusers import QwenImageTransformer2DModel as Transformer

from omni_rl.contracts.model import LoadedModel
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.manager import Hooks, build_manager
from omni_rl.run import core_hooks

ROWS, SIDE, TEXT, WIDTH = 2, 512, 64, 256


def build_pair() -> tuple[Callable[[], None], Callable[[], None]]:
    """(universal, bare)."""
    torch.manual_seed(0)
    transformer = Transformer(
        in_channels=64,
        out_channels=16,
        num_layers=8,
        attention_head_dim=96,
        num_attention_heads=8,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(16, 40, 40),
    )
    vae = AutoencoderKLQwenImage(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = QwenImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    model = LoadedModel(pipe, "QwenImagePipeline", Path(), torch.device("cpu"), torch.float32)
    model.hooks = Hooks(build_manager([Layer("core", core_hooks, "omni-rl")]))
    conditioning = {
        "prompt_embeds": torch.randn(ROWS, TEXT, WIDTH),
        "prompt_embeds_mask": torch.ones(ROWS, TEXT, dtype=torch.long),
    }
    call = {"height": SIDE, "width": SIDE}
    shapes = model.hooks.prepare_latents(model=model, conditioning=conditioning, call=call)
    x = torch.randn(ROWS, *shapes["x"])
    t = torch.full((ROWS,), 500.0)

    def universal() -> None:
        velocity = model.hooks.predict(model=model, x={"x": x}, t=t, conditioning=conditioning, call=call)
        velocity["x"].square().mean().backward()

    def bare() -> None:
        velocity = transformer(
            hidden_states=x,
            timestep=t / 1000,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, SIDE // 16, SIDE // 16)]] * ROWS,
            return_dict=False,
        )[0]
        velocity.square().mean().backward()

    return universal, bare
