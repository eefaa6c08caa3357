"""Untrained pipelines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline

from omni_rl.errors import UserError
from omni_rl_tiny import build_random
from omni_rl_tiny.build import Sizes, assemble
from omni_rl_tiny.pretrain import sha256


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_build_random_is_deterministic(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_random(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert digests(first) == digests(again)
    changed = {name for name, digest in digests(first).items() if digests(other)[name] != digest}
    assert changed == {"transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}


def test_random_pipeline_draws(tmp_path: Path) -> None:
    pipeline = QwenImagePipeline.from_pretrained(build_random(tmp_path / "random"))
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"height": 32, "width": 48, "num_inference_steps": 3, "true_cfg_scale": 1.0, "output_type": "np"}
    picture, again = (
        pipeline("a plain card", generator=torch.Generator().manual_seed(0), **arguments).images[0] for _ in range(2)
    )
    assert picture.shape == (32, 48, 3)
    assert picture.std() > 0.05
    assert np.array_equal(picture, again)


def test_sizes_are_taken(tmp_path: Path) -> None:
    transformer = assemble(Sizes(layers=1, heads=2, head_dim=32, text_width=32, halvings=3), ["a card"], 0).transformer
    assert (transformer.config.num_layers, transformer.inner_dim) == (1, 64)
    assert transformer.config.axes_dims_rope == (8, 12, 12)


def test_unknown_head_dimension_is_refused() -> None:
    with pytest.raises(UserError, match="head_dim must be one of"):
        assemble(Sizes(head_dim=24), ["a card"], 0)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, omni_rl_tiny; omni_rl_tiny.tiny_qwen_signs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
