"""Trains the shipped base: ``python -m omni_rl_tiny.pretrain --out DIR`` (needs ``omni-rl-tiny[pretrain]``).

Flow matching in two stages: on clean signs, which teaches the digits; then, for fewer updates, on signs of which most
are faint or cluttered. The base still knows the digits but draws them badly, which leaves RL something to restore.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImagePipeline

from omni_rl_tiny.build import Sizes, assemble
from omni_rl_tiny.measure import score_pipeline, score_style, to_tensor
from omni_rl_tiny.signs import CLEAN, FAULTY, HEIGHT, HELD_OUT, TRAINED, WIDTH, Style, draw_signs, prompt_for

_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow", "rapidocr")
_BATCH = 64
_WARM_UP = 50  # iterations
_DECAY = 0.4  # share of a stage over which the learning rate falls to zero
_SIGMA_LOGIT = (0.3, 1.2)  # mean and standard deviation of logit(sigma)


@dataclass(frozen=True)
class Stage:
    """One round of pretraining: which images, how many updates, the peak learning rate."""

    name: str
    style: Style
    iterations: int
    rate: float


STAGES = (Stage("clean", CLEAN, 2000, 3e-3), Stage("faulty", FAULTY, 500, 1.5e-3))


@dataclass(frozen=True)
class Latents:
    """Images ready for training: x (N, tokens, channels) packed and normalised, rows (N,) into ``TRAINED``."""

    x: torch.Tensor
    rows: torch.Tensor


def encode(pipeline: QwenImagePipeline, style: Style, count: int, seed: int) -> Latents:
    """``count`` images of random training numbers through the VAE, packed 2x2 as QwenImagePipeline does."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(TRAINED), size=count)
    pictures = to_tensor(draw_signs([TRAINED[row] for row in rows], style, rng))
    vae = pipeline.vae
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode()[:, :, 0] for part in pictures.split(256)])  # (N, C, h, w)
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    z = (z - mean[:, None, None]) / std[:, None, None]
    count, channels, height, width = z.shape
    patches = z.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return Latents(patches.reshape(count, -1, 4 * channels), torch.from_numpy(rows))


def schedule(iteration: int, iterations: int) -> float:
    """Share of the peak learning rate: linear warm-up, plateau, linear decay."""
    return min(1.0, (iteration + 1) / _WARM_UP, (1 - iteration / iterations) / _DECAY)


def fit(
    pipeline: QwenImagePipeline, stage: Stage, latents: Latents, seed: int, report: Callable[[int, float], None]
) -> None:
    """Train the pipeline's transformer in place; ``report(iteration, loss)`` after every update."""
    transformer = pipeline.transformer.train()
    with torch.no_grad():
        prompts, _ = pipeline.encode_prompt([prompt_for(number) for number in TRAINED])  # (80, L, D)
    factor = 2 * pipeline.vae_scale_factor
    shape = [[(1, HEIGHT // factor, WIDTH // factor)]] * _BATCH
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01)
    for iteration, (x, noise, sigma, rows) in enumerate(_batches(latents, stage.iterations, seed)):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * schedule(iteration, stage.iterations)
        level = sigma[:, None, None]
        velocity = transformer(
            hidden_states=(1 - level) * x + level * noise,
            timestep=sigma,
            encoder_hidden_states=prompts[rows],
            img_shapes=shape,
            return_dict=False,
        )[0]
        loss = (velocity - (noise - x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        report(iteration, loss.item())
    transformer.eval()


def _batches(
    latents: Latents, iterations: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """x and noise (B, tokens, channels), sigma (B,) in (0, 1), prompt rows (B,)."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = _SIGMA_LOGIT
    for _ in range(iterations):
        pick = torch.randint(len(latents.x), (_BATCH,), generator=generator)
        x = latents.x[pick]
        noise = torch.randn(x.shape, generator=generator)
        sigma = torch.sigmoid(mean + std * torch.randn(_BATCH, generator=generator))
        yield x, noise, sigma, latents.rows[pick]


def save(pipeline: QwenImagePipeline, folder: Path) -> None:
    """Write the pipeline folder and, beside it, both prompt sets."""
    pipeline.save_pretrained(folder)
    for name, numbers in (("train", TRAINED), ("heldout", HELD_OUT)):
        rows = [json.dumps({"prompt": prompt_for(number), "text": number}) for number in numbers]
        (folder / f"prompts_{name}.jsonl").write_text("\n".join(rows) + "\n")


def scores(pipeline: QwenImagePipeline, repeats: int) -> dict[str, float]:
    """Mean OCR scores of the base, and of the images it learned from after the VAE."""
    found = {
        "held-out numbers": score_pipeline(pipeline, HELD_OUT, repeats),
        "trained numbers": score_pipeline(pipeline, TRAINED, max(1, repeats // 4)),
    }
    for stage in STAGES:
        found[f"pictures of stage {stage.name}"] = score_style(pipeline, TRAINED, stage.style, repeats)
    return {name: round(score, 3) for name, score in found.items()}


def provenance(
    folder: Path, arguments: dict[str, Any], stages: Sequence[Stage], found: dict[str, float]
) -> dict[str, Any]:
    """Everything needed to make the folder again and to see that it is the one described."""
    weights = sorted(folder.rglob("*.safetensors"))
    return {
        "script": "python -m omni_rl_tiny.pretrain",
        "arguments": arguments,
        "stages": [asdict(stage) for stage in stages],
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in weights},
        "ocr_scores": found,
    }


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _progress(stage: Stage) -> Callable[[int, float], None]:
    """Prints the mean loss of every hundred updates."""
    losses: list[float] = []

    def report(iteration: int, loss: float) -> None:
        losses.append(loss)
        if (iteration + 1) % 100 == 0:
            print(f"{stage.name} {iteration + 1}/{stage.iterations}: loss {np.mean(losses[-100:]):.4f}", flush=True)

    return report


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write; also gets prompts and provenance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; part of what makes a run reproducible")
    parser.add_argument("--pictures", type=int, default=16000, help="pictures drawn per stage")
    parser.add_argument("--iterations", type=int, help="updates per stage, instead of the recipe's")
    parser.add_argument("--repeats", type=int, default=8, help="samples per held-out number when scoring")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: train, save, score, write provenance."""
    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    stages = [replace(stage, iterations=arguments.iterations or stage.iterations) for stage in STAGES]
    pipeline = assemble(Sizes(), [prompt_for("42")], arguments.seed)
    pipeline.set_progress_bar_config(disable=True)
    for number, stage in enumerate(stages):
        seed = len(stages) * arguments.seed + number
        fit(pipeline, stage, encode(pipeline, stage.style, arguments.pictures, seed), seed, _progress(stage))
    save(pipeline, arguments.out)
    given = {name: value for name, value in vars(arguments).items() if name != "out" and value is not None}
    record = provenance(arguments.out, given, stages, scores(pipeline, arguments.repeats))
    (arguments.out / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    for name, score in record["ocr_scores"].items():
        print(f"OCR score of {name}: {score:.3f}")


if __name__ == "__main__":
    main()
