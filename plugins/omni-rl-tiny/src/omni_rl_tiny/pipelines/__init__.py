"""Tiny random pipelines of real architectures, with text encoders and tokenizers, from diffusers' own classes.

Each is written in about a second, from a fixed seed, as a folder that ``from_pretrained`` loads. One module for each
family, imported when one of its pipelines is built. Names are those of the architectures; where a plugin meets several
forms of one, further ones have a word behind it (:data:`VARIANTS`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from omni_rl_tiny.pipelines.calls import CALLS, Call

__all__ = ["BUILDERS", "CALLS", "FROM_PICTURES", "VARIANTS", "build", "built_once", "call_of"]

Builder = Callable[[], DiffusionPipeline]

_TRAINED_FROM_ZERO = ("transformer", "controlnet")


def _of(family: str, function: str) -> Builder:
    def builder() -> DiffusionPipeline:
        built: DiffusionPipeline = getattr(import_module(f"{__name__}.{family}"), function)()
        return built

    return builder


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
    "QwenImage21Pipeline": _of("qwen_image21", "qwen_image21"),
    "ZImageOmniPipeline": _of("z_image", "z_image_omni"),
    "NucleusMoEImagePipeline": _of("nucleus_moe", "nucleus_moe_image"),
    "SanaPAGPipeline": _of("sana", "sana_pag"),
    "SkyReelsV2DiffusionForcingPipeline": _of("skyreels_v2", "skyreels_v2_diffusion_forcing"),
    "MotifVideoPipeline": _of("motif_video", "motif_video"),
    "EasyAnimatePipeline": _of("easyanimate", "easyanimate"),
    "BriaFibo2Pipeline": _of("bria_fibo2", "bria_fibo2"),
    "HunyuanVideo15Pipeline": _of("hunyuan_video15", "hunyuan_video15"),
    "HeliosPipeline": _of("helios", "helios"),
    "Cosmos3OmniPipeline": _of("cosmos3", "cosmos3_omni"),
    "QwenImageEditPlusPipeline": _of("from_pictures", "qwen_image_edit_plus"),
    "FluxKontextPipeline": _of("from_pictures", "flux_kontext"),
    "WanImageToVideoPipeline": _of("from_pictures", "wan_image_to_video"),
    "QwenImageEditPipeline": _of("from_pictures", "qwen_image_edit"),
    "LongCatImageEditPipeline": _of("from_pictures", "longcat_image_edit"),
    "LucyEditPipeline": _of("from_pictures", "lucy_edit"),
    "ChronoEditPipeline": _of("from_pictures", "chrono_edit"),
    "LTX2ImageToVideoPipeline": _of("first_frames", "ltx2_image_to_video"),
    "LTXImageToVideoPipeline": _of("first_frames", "ltx_image_to_video"),
    "LTXConditionPipeline": _of("first_frames", "ltx_condition"),
    "HunyuanVideoImageToVideoPipeline": _of("first_frames", "hunyuan_video_image_to_video"),
    "Kandinsky5I2VPipeline": _of("first_frames", "kandinsky5_i2v"),
    "SkyReelsV2ImageToVideoPipeline": _of("first_frames", "skyreels_v2_image_to_video"),
    "SanaImageToVideoPipeline": _of("first_frames", "sana_image_to_video"),
    "FluxControlPipeline": _of("controls", "flux_control"),
    "FluxFillPipeline": _of("controls", "flux_fill"),
    "CogView4ControlPipeline": _of("controls", "cogview4_control"),
    "WanVACEPipeline": _of("controls", "wan_vace"),
    "FluxControlNetPipeline": _of("controls", "flux_controlnet"),
    "StableDiffusion3ControlNetPipeline": _of("controls", "stable_diffusion_3_controlnet"),
    "QwenImageControlNetPipeline": _of("controls", "qwen_image_controlnet"),
}

VARIANTS: dict[str, Builder] = {
    "WanPipeline-two-experts": _of("wan", "wan_of_two_experts"),
    "WanImageToVideoPipeline-two-experts": _of("from_pictures", "wan_image_to_video_of_two_experts"),
    "WanImageToVideoPipeline-last-frame": _of("from_pictures", "wan_first_and_last_frame"),
    "WanImageToVideoPipeline-by-token": _of("from_pictures", "wan_image_to_video_by_token"),
    "LTX2Pipeline-2.3": _of("ltx2", "ltx2_3"),
}

_CONTROL = {"control_image": 1}

FROM_PICTURES: dict[str, dict[str, int]] = {
    "QwenImageEditPlusPipeline": {"image": 2},
    "FluxKontextPipeline": {"image": 1},
    "WanImageToVideoPipeline": {"image": 1},
    "QwenImageEditPipeline": {"image": 1},
    "LongCatImageEditPipeline": {"image": 1},
    "LucyEditPipeline": {"video": 5},
    "ChronoEditPipeline": {"image": 1},
    "LTX2ImageToVideoPipeline": {"image": 1},
    "LTXImageToVideoPipeline": {"image": 1},
    "LTXConditionPipeline": {"image": 1},
    "HunyuanVideoImageToVideoPipeline": {"image": 1},
    "Kandinsky5I2VPipeline": {"image": 1},
    "SkyReelsV2ImageToVideoPipeline": {"image": 1},
    "SanaImageToVideoPipeline": {"image": 1},
    "FluxControlPipeline": _CONTROL,
    "FluxFillPipeline": {"image": 1, "mask_image": 1},
    "CogView4ControlPipeline": _CONTROL,
    "WanVACEPipeline": {"video": 5, "mask": 5, "reference_images": 1},
    "FluxControlNetPipeline": _CONTROL,
    "StableDiffusion3ControlNetPipeline": _CONTROL,
    "QwenImageControlNetPipeline": _CONTROL,
}
"""What is sampled from images beside the text: how many each argument takes; one is an image, several are a list of
images or a clip.
"""


def built_once(new_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function that answers the folder of a tiny pipeline by its name, and builds it when it is first asked."""

    @cache
    def folder(name: str) -> Path:
        return build(name, new_folder(name))

    return folder


def call_of(name: str) -> Call:
    """Arguments for ``__call__`` that suit the tiny pipeline."""
    return CALLS[name.partition("-")[0]]


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random pipeline into ``folder``, and what it is called with into ``call.json``."""
    builder = (BUILDERS | VARIANTS)[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = builder()
        for component, module in pipe.components.items():
            for parameter in module.parameters() if component.startswith(_TRAINED_FROM_ZERO) and module else ():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)  # zero-initialised outputs would make tests trivial
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "call.json").write_text(json.dumps(call_of(name), indent=1) + "\n", encoding="utf-8")
    return folder
