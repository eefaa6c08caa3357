"""FLUX.2 (``Flux2Pipeline``, ``Flux2KleinPipeline``) from text: the velocity for rollout and training.

It follows these diffusers pipelines, and the tests compare it with them. Latents are packed (B, tokens, C), one token
per 2 x 2 latent patch. FLUX.2 takes the guidance scale as an input. Klein uses classifier-free guidance with the empty
prompt, except for distilled checkpoints. Core's defaults take schedule, shapes, embeddings and decoding from the
pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import format_input

from omni_rl import hookimpl
from omni_rl.authoring.model import classifier_free, is_stand_in, patches, refuse_cut
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors

HONOURED = {"height", "width", "guidance_scale", "max_sequence_length", "text_encoder_out_layers"}
"""If the call has any other argument, or input images, the velocity is computed by the pipeline itself."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Steps and guidance of the pipelines; LoRA on the attention projections, in single blocks also on their MLP."""
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    return {
        "rollout": {"call": {"guidance_scale": 4.0}},
        "validation": {"steps": 50},
        "model": {"lora": {"targets": [*targets, "to_qkv_mlp_proj"]}},
    }


@hookimpl
def encode_prompt(model: LoadedModel, prompts: Sequence[str], call: Mapping[str, Any]) -> None:
    """Raise an error for a prompt that would be cut; otherwise the pipeline encodes it.

    Raises:
        DataError: a prompt with its template is longer than the text encoder's limit.
    """
    if model.architecture == "Flux2KleinPipeline":
        chats = [[{"role": "user", "content": text}] for text in prompts]
        template = {"add_generation_prompt": True, "enable_thinking": False}
    else:
        chats = format_input(list(prompts), system_message=model.pipe.system_message)
        template = {"add_generation_prompt": False, "tokenize": True}
    ids = model.pipe.tokenizer.apply_chat_template(chats, return_dict=True, **template)["input_ids"]
    limit = model.argument(call, "max_sequence_length")
    refuse_cut(prompts, ids, limit, ", or set rollout.call.max_sequence_length (at most 512)")


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the image."""
    pipe = model.pipe
    return patches(call, default=pipe.default_sample_size * pipe.vae_scale_factor, patch=pipe.vae_scale_factor * 2)


def _is_edit(conditioning: Tensors, call: Mapping[str, Any]) -> bool:
    return "image" in call or any(is_stand_in(name) for name in conditioning)


@hookimpl
def prepare_latents(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, tuple[int, ...]] | None:
    """Shape of packed latents: (tokens, C).

    Raises:
        ConfigError: the pipeline would round the size.
    """
    if _is_edit(conditioning, call):
        return None  # the image gets the size of its input image
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with the pipeline's kind of guidance."""
    if call.keys() - HONOURED or _is_edit(conditioning, call):
        return None
    pipe, scale = model.pipe, model.argument(call, "guidance_scale")
    klein = model.architecture == "Flux2KleinPipeline"
    zero, *grid = (torch.arange(n) for n in (1, *_grid(model, call)))
    positions = torch.cartesian_prod(zero, *grid, zero).to(model.device)  # (tokens, 4): image, row, column, 0

    def velocity(x: Streams, t: torch.Tensor, text: Tensors) -> Streams:
        latents = x["x"].to(model.input_dtype)
        embeds = text["prompt_embeds"].to(latents.dtype)  # (B, L, D)
        order = torch.arange(embeds.shape[1], device=model.device)
        (output,) = pipe.transformer(
            hidden_states=latents,
            timestep=t.to(latents.dtype) / 1000,
            guidance=None if klein else torch.full_like(t, scale),
            encoder_hidden_states=embeds,
            txt_ids=torch.nn.functional.pad(order[:, None], (3, 0)),  # (L, 4): 0, 0, 0, position
            img_ids=positions,
            return_dict=False,
        )
        return {"x": output}

    return classifier_free(velocity, x, t, conditioning, scale, on=klein and scale > 1 and not pipe.config.is_distilled)
