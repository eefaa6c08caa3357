"""Media to latents and back, through what the pipeline itself does on its way to pixels."""

from __future__ import annotations

import pytest
import torch
from model_cases import GUIDED, unguided

from omni_rl.errors import ModelError
from omni_rl.model.loading import load_model
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.manager import Hooks, build_manager
from omni_rl.run import core_hooks
from omni_rl.schedulers.randomness import randn
from omni_rl.universal import media_encoding

ARCHITECTURES = ["QwenImagePipeline", "StableDiffusion3Pipeline", "FluxPipeline", "WanPipeline", "SanaPipeline"]


@pytest.fixture
def loaded(tiny_folder):
    def load(architecture):
        model = load_model(tiny_folder(architecture), device=torch.device("cpu"), precision="fp32", full=True)
        model.hooks = Hooks(build_manager([Layer("core", core_hooks, "omni-rl")]))
        call = unguided(GUIDED[architecture])
        with torch.no_grad():
            conditioning = model.hooks.encode_prompt(
                model=model, prompts=["hello"], negative_prompts=None, tokens={}, call=call
            )
        return model, conditioning, call

    return load


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_way_back_undoes_packing_and_scaling(loaded, architecture):
    """What reaches the autoencoder for known latents, led back, is those latents."""
    model, conditioning, call = loaded(architecture)
    shape = model.hooks.prepare_latents(model=model, conditioning=conditioning, call=call)["x"]
    latents = randn(1, (1, *shape))
    with torch.no_grad():
        reached = media_encoding._input_of_vae(model, latents, conditioning, call)
    to_vae = media_encoding._find_map(model, conditioning, call)
    torch.testing.assert_close(to_vae.inverse(reached), latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoded_media_are_the_autoencoders_own_latents(loaded, architecture):
    """Decoding them gives what the autoencoder makes of the media by itself."""
    model, conditioning, call = loaded(architecture)
    shape = model.hooks.prepare_latents(model=model, conditioning=conditioning, call=call)["x"]
    with torch.no_grad():
        media = model.hooks.decode_latents(
            model=model, latents={"x": randn(1, (1, *shape))}, conditioning=conditioning, call=call
        )
        encoded = model.hooks.encode_media(model=model, media=media, conditioning=conditioning, call=call)
        assert encoded["x"].shape == (1, *shape)
        back = model.hooks.decode_latents(model=model, latents=encoded, conditioning=conditioning, call=call)
        ((kind, pixels),) = media.items()
        values = 2 * pixels - 1
        values = values.transpose(1, 2) if kind == "video" else values
        vae = model.pipe.vae
        values = values[:, :, None] if architecture == "QwenImagePipeline" else values
        latent = vae.encode(values)
        latent = latent.latent_dist.mode() if hasattr(latent, "latent_dist") else latent.latent
        own = vae.decode(latent).sample
    own = own[:, :, 0] if architecture == "QwenImagePipeline" else own
    own = own.transpose(1, 2) if kind == "video" else own
    torch.testing.assert_close(back[kind], (own / 2 + 0.5).clamp(0, 1), rtol=1e-3, atol=1e-3)


def test_media_of_another_size_are_refused(loaded):
    model, conditioning, call = loaded("StableDiffusion3Pipeline")
    with pytest.raises(ModelError, match="are the size that media must have"):
        model.hooks.encode_media(
            model=model, media={"image": torch.rand(1, 3, 32, 32)}, conditioning=conditioning, call=call
        )
