"""Tiny random pipelines of real architectures, with text encoders and tokenizers, from diffusers' own classes.

Each builder writes a folder that ``from_pretrained`` loads, in about a second, from a fixed seed. One module for each
family, imported when one of its pipelines is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from tiny_pipelines.autoencoders import image_vae
from tiny_pipelines.calls import CALLS
from tiny_pipelines.text_encoders import WIDTH, clip_config

__all__ = ["BUILDERS", "CALLS", "REPRESENTATIVES", "WIDTH", "build", "built_once", "clip_config", "image_vae", "write"]

Builder = Callable[[], DiffusionPipeline]

REPRESENTATIVES = (
    "QwenImagePipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "WanPipeline",
    "SanaPipeline",
)
"""What tests of core run on: each of another kind, together all that the others do in pieces."""


def _of(family: str, function: str) -> Builder:
    def builder() -> DiffusionPipeline:
        built: DiffusionPipeline = getattr(import_module(f"tiny_pipelines.{family}"), function)()
        return built

    return builder


wan_of_two_experts = _of("wan", "wan_of_two_experts")
ltx2_3 = _of("ltx2", "ltx2_3")

BUILDERS: dict[str, Builder] = {
    "QwenImagePipeline": _of("qwen_image", "qwen_image"),
    "StableDiffusion3Pipeline": _of("stable_diffusion_3", "stable_diffusion_3"),
    "FluxPipeline": _of("flux", "flux"),
    "WanPipeline": _of("wan", "wan"),
    "SanaPipeline": _of("sana", "sana"),
    "ZImagePipeline": _of("z_image", "z_image"),
    "Flux2KleinPipeline": _of("flux2", "flux2_klein"),
    "ChromaPipeline": _of("chroma", "chroma"),
    "Lumina2Pipeline": _of("lumina2", "lumina2"),
    "AuraFlowPipeline": _of("aura_flow", "aura_flow"),
    "Flux2Pipeline": _of("flux2", "flux2"),
    "LTXPipeline": _of("ltx", "ltx"),
    "LTX2Pipeline": _of("ltx2", "ltx2"),
    "HunyuanVideoPipeline": _of("hunyuan_video", "hunyuan_video"),
    "CogView4Pipeline": _of("cogview4", "cogview4"),
    "HiDreamImagePipeline": _of("hidream", "hidream"),
    "OvisImagePipeline": _of("ovis_image", "ovis_image"),
    "PRXPipeline": _of("prx", "prx"),
    "MochiPipeline": _of("mochi", "mochi"),
    "SkyReelsV2Pipeline": _of("skyreels_v2", "skyreels_v2"),
    "SanaVideoPipeline": _of("sana_video", "sana_video"),
    "BriaPipeline": _of("bria", "bria"),
    "ErnieImagePipeline": _of("ernie_image", "ernie_image"),
    "LuminaPipeline": _of("lumina", "lumina"),
    "AnyFlowPipeline": _of("anyflow", "anyflow"),
    "LongCatImagePipeline": _of("longcat_image", "longcat_image"),
    "OmniGenPipeline": _of("omnigen", "omnigen"),
    "HunyuanImagePipeline": _of("hunyuan_image", "hunyuan_image"),
    "Kandinsky5T2VPipeline": _of("kandinsky5", "kandinsky5_t2v"),
    "Krea2Pipeline": _of("krea2", "krea2"),
    "StableDiffusion3PAGPipeline": _of("stable_diffusion_3", "stable_diffusion_3_pag"),
    "PRXPixelPipeline": _of("prx", "prx_pixel"),
}


def built_once(new_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function that answers the folder of an architecture's tiny pipeline, and builds it when it is first asked."""

    @cache
    def folder(architecture: str) -> Path:
        return build(architecture, new_folder(architecture))

    return folder


def build(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random pipeline of ``architecture`` into ``folder``."""
    return write(BUILDERS[architecture], folder, seed)


def write(builder: Builder, folder: Path, seed: int = 0) -> Path:
    """Write what ``builder`` builds from ``seed`` into ``folder``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = builder()
        for name, component in pipe.components.items():
            for parameter in component.parameters() if name.startswith("transformer") and component else ():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)  # zero-initialised outputs would make tests trivial
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
