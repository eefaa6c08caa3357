"""Writes ``samples/`` of an export: the run's validation images, and the data with which plain diffusers draws them
again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from omni_rl.data.media_files import load
from omni_rl.reporting.exhibits import Exhibit
from omni_rl_export import reproduce


def write_samples(
    folder: Path, exhibits: Sequence[Exhibit], *, dtype: str, lora: Sequence[dict[str, Any]], base: str | None
) -> None:
    """Write ``samples/``, and ``reproduce.py``, which reads it.

    Args:
        folder: the export folder.
        exhibits: one or more validation samples.
        dtype: name of the torch dtype for sampling.
        lora: one entry per LoRA file, as ``write_lora`` returns them; empty for a pipeline folder.
        base: a hub id; None for a model that is not on a hub.
    """
    samples = folder / "samples"
    samples.mkdir()
    rows = [_write(samples, f"{number:03d}", exhibit) for number, exhibit in enumerate(exhibits)]
    sheet = {"dtype": dtype, "base": base, "lora": list(lora), "samples": rows}
    (samples / "samples.json").write_text(json.dumps(sheet, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(reproduce.__file__, folder)


def _write(samples: Path, name: str, exhibit: Exhibit) -> dict[str, Any]:
    Image.fromarray(exhibit.image).save(samples / f"{name}.png")
    own = {"latents" if stream == "x" else f"{stream}_latents": x for stream, x in exhibit.start().items()}
    save_file(exhibit.latent_arguments or own, samples / f"{name}.safetensors")
    return {
        "picture": f"{name}.png",
        "noise": f"{name}.safetensors",
        "video": exhibit.video,
        "call": call_of(exhibit),
        "media": _write_media(samples, name, exhibit),
        "timesteps": exhibit.table.timesteps.tolist(),
        "sigmas": exhibit.table.sigmas.tolist(),
    }


def _write_media(samples: Path, name: str, exhibit: Exhibit) -> dict[str, str | list[str]]:
    """Copy the media that the sample was conditioned on: pipeline argument -> file, or files."""

    def kept(picture: Image.Image, place: str) -> str:
        picture.save(samples / f"{name}-{place}.png")
        return f"{name}-{place}.png"

    return {
        argument: [kept(each, f"{argument}-{i}") for i, each in enumerate(media)]
        if isinstance(media, list)
        else kept(media, argument)
        for argument, media in load(exhibit.request.media).items()
    }


def call_of(exhibit: Exhibit) -> dict[str, Any]:
    """The arguments of the pipeline's call, without the noise."""
    request = exhibit.request
    negative = {} if request.negative_prompt is None else {"negative_prompt": request.negative_prompt}
    return {"prompt": request.prompt, **negative, "num_inference_steps": request.steps, **request.call}
