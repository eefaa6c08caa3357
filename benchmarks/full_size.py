"""Writes a Qwen-Image pipeline of the published size with random weights, for runs that measure and learn nothing.

The transformer (60 layers, 24 heads x 128: 20.4 B parameters) and the VAE have the published sizes; the text encoder
has the published width and 4 of its 28 layers, and a tokenizer of a few hundred words.

    python benchmarks/full_size.py full-size [--layers 60]
    omni-rl train benchmarks/full_size.yaml --run-dir full-size-run
    omni-rl resume full-size-run train.iterations=4
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

from omni_rl_tiny.build import qwen_image_scheduler
from omni_rl_tiny.text import random_text_encoder, train_tokenizer

PROMPTS = ("a sign that says 42", "a green door in a white wall", "two cats on a bench", "a red boat at night")


def build(folder: Path, layers: int) -> int:
    """Write the pipeline and its prompts; returns the transformer's number of parameters."""
    torch.set_default_dtype(torch.bfloat16)
    tokens = train_tokenizer(PROMPTS)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(0)
        transformer = QwenImageTransformer2DModel(num_layers=layers)
        vae = AutoencoderKLQwenImage()
        encoder = random_text_encoder(tokens, transformer.config.joint_attention_dim, 4)
    pipe = QwenImagePipeline(qwen_image_scheduler(), vae, encoder, tokens, transformer)
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return sum(p.numel() for p in transformer.parameters())


def main() -> None:
    """Build, and say how large it is and how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=60)
    arguments = parser.parse_args()
    started = time.perf_counter()
    parameters = build(arguments.folder, arguments.layers)
    print(f"{parameters / 1e9:.2f} B parameters in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
