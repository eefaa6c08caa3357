"""Tiny random pipelines of real architectures, with text encoders and tokenizers, from diffusers' own classes.

Each builder writes a folder that ``from_pretrained`` loads, in about a second, from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tiny_tokenizers import QWEN_SPECIALS, clip_tokenizer, gemma_tokenizer, qwen_tokenizer, t5_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32


def clip_config(tokenizer: CLIPTokenizerFast) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def image_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def stable_diffusion_3() -> DiffusionPipeline:
    """Batched CFG, two CLIP encoders and a T5, shift 3."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=CLIPTextModelWithProjection(clip_config(clip)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(clip)),
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=2 * WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ),
        tokenizer=clip,
        tokenizer_2=clip,
        tokenizer_3=t5,
    )


def flux() -> DiffusionPipeline:
    """Guidance embedding, packed latents, dynamic shift."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return FluxPipeline(
        transformer=transformer,
        vae=image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text_encoder=CLIPTextModel(clip_config(clip)),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ),
        tokenizer=clip,
        tokenizer_2=t5,
    )


def _wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def wan(**components: object) -> DiffusionPipeline:
    """Video, CFG in two passes, the published UniPC scheduler whose flow_shift a plain from_config drops."""
    t5 = t5_tokenizer()
    transformer = _wan_transformer()
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(t5), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )
    return WanPipeline(
        tokenizer=t5, text_encoder=text_encoder, vae=vae, scheduler=scheduler, transformer=transformer, **components
    )


def wan_of_two_experts() -> DiffusionPipeline:
    """Wan 2.2: another transformer, and another guidance scale, where there is little noise left."""
    return wan(transformer_2=_wan_transformer(), boundary_ratio=0.875)


def qwen_image() -> DiffusionPipeline:
    """True CFG with norm preservation, a template prefix that is dropped, masks, shift_terminal."""
    tokenizer = qwen_tokenizer()
    ids = {s: tokenizer.convert_tokens_to_ids(s) for s in QWEN_SPECIALS}
    text = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 2 * WIDTH,
        "vocab_size": len(tokenizer),
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "intermediate_size": 32,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        vocab_size=len(tokenizer),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config=text,
        vision_config=vision,
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
    )
    return QwenImagePipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def sana() -> DiffusionPipeline:
    """Batched CFG, linear attention, attention masks, the published DPM-Solver whose flow_shift from_config drops."""
    tokenizer = gemma_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
    )
    blocks = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "block_types": ("ResBlock", "EfficientViTBlock"),
            "block_out_channels": (8, 8),
            "qkv_multiscales": ((), (5,)),
            "layers_per_block": (1, 1),
        }.items()
    }
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=2, upsample_block_type="interpolate", **blocks)
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "QwenImagePipeline": qwen_image,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
    "WanPipeline": wan,
    "SanaPipeline": sana,
}

CALLS: dict[str, dict[str, object]] = {
    "QwenImagePipeline": {"height": 16, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "},
    "StableDiffusion3Pipeline": {
        "height": 16,
        "width": 16,
        "guidance_scale": 4.5,
        "negative_prompt": "hello",
        "max_sequence_length": 16,
    },
    "FluxPipeline": {"height": 16, "width": 16, "guidance_scale": 3.5, "max_sequence_length": 16},
    "WanPipeline": {
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "guidance_scale": 5.0,
        "negative_prompt": "hello",
        "max_sequence_length": 16,
    },
    "SanaPipeline": {
        "height": 32,
        "width": 32,
        "guidance_scale": 4.5,
        "negative_prompt": "hello",
        "max_sequence_length": 16,
        "use_resolution_binning": False,
    },
}
"""Small sizes and short texts, guidance on: the hardest case of each architecture."""


def built_once(new_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function that answers the folder of an architecture's tiny pipeline, and builds it when it is first asked."""

    @cache
    def folder(architecture: str) -> Path:
        return build(architecture, new_folder(architecture))

    return folder


def build(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random pipeline of ``architecture`` into ``folder``."""
    return write(BUILDERS[architecture], folder, seed)


def write(builder: Callable[[], DiffusionPipeline], folder: Path, seed: int = 0) -> Path:
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
