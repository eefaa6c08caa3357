"""A pipeline that steps two latents of different shape, picture and sound, in the ways of diffusers' LTX-2.

Its guidance works on predicted data and reads the scheduler's sigmas; the second stream has a copy of the scheduler;
embeddings are as wide as the batch's longest prompt. The pipeline is in no release of diffusers: ``register`` makes
``from_pretrained`` find it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, clip_config
from omni_rl_tiny.pipelines.tokenizers import clip_tokenizer

ARCHITECTURE = "ToyTwoStreamsPipeline"
CALL: dict[str, object] = {"height": 8, "width": 16, "guidance_scale": 3.0, "negative_prompt": "hello"}


class ToyTwoStreamsTransformer(ModelMixin, ConfigMixin):
    """Velocities of (B, 4, H, W) and (B, 2, S); either stream sees the other's mean and the text's."""

    @register_to_config
    def __init__(self, channels: int = 4, audio_channels: int = 2) -> None:
        super().__init__()
        self.picture_in, self.picture_out = nn.Linear(channels, WIDTH), nn.Linear(WIDTH, channels)
        self.sound_in, self.sound_out = nn.Linear(audio_channels, WIDTH), nn.Linear(WIDTH, audio_channels)
        self.text, self.time = nn.Linear(WIDTH, WIDTH), nn.Linear(1, WIDTH)
        self.across = nn.Linear(2 * WIDTH, 2 * WIDTH)

    def forward(
        self,
        hidden_states: torch.Tensor,
        audio_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weights = encoder_attention_mask[..., None].to(encoder_hidden_states.dtype)  # (B, L, 1)
        text = (encoder_hidden_states * weights).sum(1) / weights.sum(1)  # (B, D)
        context = self.text(text) + self.time(timestep[:, None].to(text.dtype) / 1000)
        picture = self.picture_in(hidden_states.movedim(1, -1))  # (B, H, W, D)
        sound = self.sound_in(audio_hidden_states.movedim(1, -1))  # (B, S, D)
        to_picture, to_sound = self.across(torch.cat([sound.mean(1), picture.mean((1, 2))], -1)).chunk(2, -1)
        picture = torch.tanh(picture + (context + to_picture)[:, None, None])
        sound = torch.tanh(sound + (context + to_sound)[:, None])
        return self.picture_out(picture).movedim(-1, 1), self.sound_out(sound).movedim(-1, 1)


class ToyTwoStreamsPipeline(DiffusionPipeline):
    """``keep_first_row`` holds the picture's first row as it was given; ``jitter`` draws noise in the loop."""

    def __init__(
        self,
        tokenizer: CLIPTokenizerFast,
        text_encoder: CLIPTextModel,
        transformer: ToyTwoStreamsTransformer,
        vae: AutoencoderKL,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, vae=vae, scheduler=scheduler
        )

    def _embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.tokenizer(texts, padding="longest", return_tensors="pt").to(self._execution_device)
        return self.text_encoder(tokens.input_ids, tokens.attention_mask)[0], tokens.attention_mask

    def encode_prompt(
        self,
        prompt: list[str] | None,
        negative_prompt: list[str] | None,
        guided: bool,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
    ) -> Any:
        if prompt_embeds is None:
            prompt_embeds, prompt_attention_mask = self._embed(prompt or [])
        if guided and negative_prompt_embeds is None:
            negative = negative_prompt or [""] * len(prompt_embeds)
            negative_prompt_embeds, negative_prompt_attention_mask = self._embed(negative)
        return prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask

    def _data(self, streams: Any, schedulers: Any, i: int, t: Any, embeds: Any, mask: Any) -> list[torch.Tensor]:
        """What both streams would be without noise."""
        dtype = self.transformer.dtype
        velocities = self.transformer(
            hidden_states=streams[0].to(dtype),
            audio_hidden_states=streams[1].to(dtype),
            timestep=t.expand(len(embeds)),
            encoder_hidden_states=embeds.to(dtype),
            encoder_attention_mask=mask,
        )
        return [x - s.sigmas[i] * v.float() for x, v, s in zip(streams, velocities, schedulers, strict=True)]

    def _latents(self, shape: tuple[int, ...], given: torch.Tensor | None, generator: Any) -> torch.Tensor:
        if given is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device)
        return given.to(self._execution_device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: list[str] | None = None,
        negative_prompt: list[str] | None = None,
        height: int = 8,
        width: int = 8,
        audio_length: int = 6,
        num_inference_steps: int = 4,
        guidance_scale: float = 3.0,
        keep_first_row: bool = False,
        jitter: float = 0.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        audio_latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        guided = guidance_scale > 1
        prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask = (
            self.encode_prompt(
                prompt,
                negative_prompt,
                guided,
                prompt_embeds,
                prompt_attention_mask,
                negative_prompt_embeds,
                negative_prompt_attention_mask,
            )
        )
        rows = len(prompt_embeds)
        latents = self._latents((rows, 4, height // 2, width // 2), latents, generator)
        audio_latents = self._latents((rows, 2, audio_length), audio_latents, generator)
        audio_scheduler = copy.deepcopy(self.scheduler)
        for scheduler in (audio_scheduler, self.scheduler):
            scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        kept = torch.zeros_like(latents, dtype=torch.bool)
        kept[:, :, 0] = keep_first_row
        schedulers = (self.scheduler, audio_scheduler)
        for i, t in enumerate(self.scheduler.timesteps):
            streams = (latents, audio_latents)
            data = self._data(streams, schedulers, i, t, prompt_embeds, prompt_attention_mask)
            if guided:
                without = self._data(streams, schedulers, i, t, negative_prompt_embeds, negative_prompt_attention_mask)
                data = [n + guidance_scale * (p - n) for p, n in zip(data, without, strict=True)]
            picture, sound = ((x - d) / s.sigmas[i] for x, d, s in zip(streams, data, schedulers, strict=True))
            if jitter:
                picture = picture + jitter * randn_tensor(picture.shape, generator=generator)
            stepped = self.scheduler.step(picture, t, latents, return_dict=False)[0]
            latents = torch.where(kept, latents, stepped)
            audio_latents = audio_scheduler.step(sound, t, audio_latents, return_dict=False)[0]
        if output_type == "latent":
            return latents, audio_latents
        pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return (pixels / 2 + 0.5).clamp(0, 1), torch.tanh(audio_latents)


def pipeline(seed: int = 0) -> ToyTwoStreamsPipeline:
    """The pipeline in memory, weights drawn from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        return ToyTwoStreamsPipeline(
            tokenizer,
            CLIPTextModel(clip_config(tokenizer)),
            ToyTwoStreamsTransformer(),
            image_vae(),
            FlowMatchEulerDiscreteScheduler(shift=2.0),
        )


def build(folder: Path) -> Path:
    """Write the pipeline into ``folder``."""
    pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def register(monkeypatch: Any) -> None:
    """Let ``DiffusionPipeline.from_pretrained`` find the class by its name, as if diffusers had it."""
    monkeypatch.setattr(diffusers, ARCHITECTURE, ToyTwoStreamsPipeline, raising=False)
