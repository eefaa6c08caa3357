"""Sizes of the latents of LTX-2, and their decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from omni_rl.authoring.model import latent_frames, patches
from omni_rl.contracts.media import RATE
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors


def sizes_of(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, int]:
    """Latent sizes as arguments of the transformer: frames, height, width, length of the audio.

    Raises:
        ConfigError: the pipeline would reject the size, or round the number of frames.
    """
    pipe, frames = model.pipe, call["num_frames"]
    size = {name: model.argument(call, name) for name in ("height", "width")}
    patches(size, default=0, patch=32)
    a_second = pipe.audio_sampling_rate / pipe.audio_hop_length / float(pipe.audio_vae_temporal_compression_ratio)
    return {
        "num_frames": latent_frames(frames, pipe.vae_temporal_compression_ratio),
        **{name: pixels // pipe.vae_spatial_compression_ratio for name, pixels in size.items()},
        "audio_num_frames": round(frames / model.argument(call, "frame_rate") * a_second),
    }


def decoded(model: LoadedModel, latents: Streams, call: Mapping[str, Any]) -> Tensors:
    """Decode to ``video`` (B, F, 3, H, W) and ``audio`` (B, C, S)."""
    pipe, vae, (*places, _) = model.pipe, model.pipe.vae, sizes_of(model, call).values()
    with model.encoders_on_device():
        grid = latents["x"].unflatten(1, places).movedim(-1, 1)
        mean, std = (s.view(-1, 1, 1, 1).to(grid) for s in (vae.latents_mean, vae.latents_std))
        grid = (grid * std / vae.config.scaling_factor + mean).to(vae.dtype)  # (B, C, F, h, w)
        clean = grid.new_zeros(len(grid)) if vae.config.timestep_conditioning else None
        video = pipe.video_processor.postprocess_video(vae.decode(grid, clean).sample, output_type="pt")
        heard, sound = pipe.audio_vae, latents["audio"]
        sound = sound * heard.latents_std.to(sound) + heard.latents_mean.to(sound)
        sound = sound.unflatten(2, (heard.config.latent_channels, -1)).transpose(1, 2)  # (B, C, L, mel)
        audio = pipe.vocoder(heard.decode(sound.to(heard.dtype)).sample)
    rates = {"video": model.argument(call, "frame_rate"), "audio": pipe.vocoder.config.output_sampling_rate}
    return {"video": video, "audio": audio, **{k + RATE: torch.full((len(grid),), float(r)) for k, r in rates.items()}}
