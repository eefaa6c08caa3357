"""Bria FIBO 2."""

from __future__ import annotations

from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from omni_rl_tiny.pipelines.flux2 import flux2_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen3_vl_for_generation
from omni_rl_tiny.pipelines.tokenizers import qwen3_vl_processor

LAST_LAYER = 35
"""Of those whose output the pipeline reads; which ones is not in its configuration."""


def bria_fibo2() -> DiffusionPipeline:
    """CFG in two passes; several bundles of a text's embeddings, and as many summarising tokens as it is long."""
    processor = qwen3_vl_processor()
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=3 * WIDTH,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=16,
        gist_step=4,
        gist_min_text_len=8,
        gist_max_text_len=64,
        axes_dims=(4, 6, 6),
        axes_lens=(256, 32, 32),
    )
    return BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3_vl_for_generation(processor.tokenizer, layers=LAST_LAYER + 1),
        processor=processor,
    )
