"""How each architecture's tiny pipeline is called: small, short texts, guidance on, the hardest case of each."""

from __future__ import annotations

from typing import Any

Call = dict[str, Any]

_CFG: Call = {"guidance_scale": 4.5, "negative_prompt": "hello"}
_SHORT: Call = {"max_sequence_length": 48}
_SMALL: Call = {"height": 16, "width": 16}
_CLIP: Call = {**_SMALL, "num_frames": 5}

CALLS: dict[str, Call] = {
    "QwenImagePipeline": {"height": 16, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "},
    "StableDiffusion3Pipeline": {**_SMALL, **_CFG, **_SHORT},
    "FluxPipeline": {**_SMALL, "guidance_scale": 3.5, **_SHORT},
    "WanPipeline": {**_CLIP, **_CFG, **_SHORT, "guidance_scale": 5.0},
    "SanaPipeline": {"height": 32, "width": 32, **_CFG, **_SHORT, "use_resolution_binning": False},
    "ZImagePipeline": {**_SMALL, **_CFG, **_SHORT},
    "Flux2KleinPipeline": {**_SMALL, "guidance_scale": 4.0, **_SHORT, "text_encoder_out_layers": [1, 2]},
    "ChromaPipeline": {**_SMALL, **_CFG, **_SHORT},
    "Lumina2Pipeline": {"height": 32, "width": 32, **_CFG, "max_sequence_length": 48, "system_prompt": "a"},
    "AuraFlowPipeline": {"height": 32, "width": 32, **_CFG, **_SHORT},
    "Flux2Pipeline": {
        **_SMALL,
        "guidance_scale": 4.0,
        "max_sequence_length": 512,
        "text_encoder_out_layers": [1, 2],
    },
    "LTXPipeline": {**_CLIP, "height": 32, "width": 32, **_CFG, **_SHORT},
    "LTX2Pipeline": {**_CLIP, "height": 32, "width": 32, **_CFG, **_SHORT, "spatio_temporal_guidance_blocks": [1]},
    "HunyuanVideoPipeline": {
        **_CLIP,
        "true_cfg_scale": 2.0,
        "negative_prompt": "hello",
        "guidance_scale": 6.0,
        "max_sequence_length": 48,
        "prompt_template": {"template": "say {} ", "crop_start": 4},
    },
    "CogView4Pipeline": {**_SMALL, **_CFG, **_SHORT},
    "HiDreamImagePipeline": {"height": 256, "width": 256, **_CFG, **_SHORT},
    "OvisImagePipeline": {**_SMALL, **_CFG, **_SHORT},
    "PRXPipeline": {**_SMALL, **_CFG, "use_resolution_binning": False},
    "MochiPipeline": {**_CLIP, "num_frames": 7, **_CFG, **_SHORT},
    "SkyReelsV2Pipeline": {**_CLIP, **_CFG, **_SHORT},
    "SanaVideoPipeline": {"height": 32, "width": 32, "frames": 5, **_CFG, **_SHORT, "use_resolution_binning": False},
    "BriaPipeline": {**_SMALL, **_CFG, **_SHORT},
    "ErnieImagePipeline": {**_SMALL, **_CFG},
    "LuminaPipeline": {**_SMALL, **_CFG, "max_sequence_length": 48, "clean_caption": False},
    "AnyFlowPipeline": {**_CLIP, **_CFG, **_SHORT},
    "LongCatImagePipeline": {**_SMALL, **_CFG, "enable_prompt_rewrite": False},
    "HunyuanImagePipeline": {**_SMALL, "negative_prompt": "hello"},
    "Kandinsky5T2VPipeline": {**_CLIP, **_CFG, "max_sequence_length": 512},
    "Krea2Pipeline": {**_SMALL, **_CFG, **_SHORT},
    "StableDiffusion3PAGPipeline": {**_SMALL, **_CFG, **_SHORT, "pag_scale": 1.5},
    "PRXPixelPipeline": {**_SMALL, **_CFG, "use_resolution_binning": False},
    "OmniGenPipeline": {"height": 32, "width": 32, "guidance_scale": 2.5},
    "QwenImage21Pipeline": {"height": 64, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "},
    "ZImageOmniPipeline": {**_SMALL, **_CFG, **_SHORT},
    "NucleusMoEImagePipeline": {**_SMALL, **_CFG, "max_sequence_length": 512, "return_index": -2},
    "SanaPAGPipeline": {"height": 32, "width": 32, **_CFG, **_SHORT, "use_resolution_binning": False, "pag_scale": 1.5},
    "SkyReelsV2DiffusionForcingPipeline": {**_CLIP, **_CFG, **_SHORT},
    "MotifVideoPipeline": {**_CLIP, "negative_prompt": "hello", **_SHORT},
    "EasyAnimatePipeline": {**_CLIP, "height": 32, "width": 32, **_CFG},
    "BriaFibo2Pipeline": {**_SMALL, **_CFG},
    "HunyuanVideo15Pipeline": {**_CLIP, "negative_prompt": "hello"},
    "Cosmos3OmniPipeline": {**_CLIP, **_CFG},
    "HeliosPipeline": {
        **_CLIP,
        "height": 64,
        "width": 64,
        **_CFG,
        **_SHORT,
        "history_sizes": [4, 2, 1],
        "num_latent_frames_per_chunk": 2,
    },
    "QwenImageEditPlusPipeline": {"height": 64, "width": 96, "true_cfg_scale": 4.0, "negative_prompt": " "},
    "FluxKontextPipeline": {
        "height": 32,
        "width": 16,
        "guidance_scale": 3.5,
        "max_sequence_length": 48,
        "max_area": 512,
        "_auto_resize": False,
    },
    "WanImageToVideoPipeline": {**_CLIP, "guidance_scale": 5.0, "negative_prompt": "hello"},
}
