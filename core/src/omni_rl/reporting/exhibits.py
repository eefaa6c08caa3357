"""Stores the images of a validation exactly, with everything that is needed to sample them again.

``images/validation-000041.safetensors`` contains the same images as the grid with that name; its header contains the
rest as JSON. x_T is stored as the key of its draw (:mod:`omni_rl.schedulers.randomness`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from omni_rl.contracts import trajectory
from omni_rl.contracts.media import media_of
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample, SigmaTable, Streams, Tensors
from omni_rl.data.media_files import load
from omni_rl.errors import CheckpointError, ModelError
from omni_rl.model.encoding import on_device
from omni_rl.reporting.image_grids import strip
from omni_rl.schedulers.randomness import INITIAL, randn_rows
from omni_rl.storage.durable import write_atomic, writing
from omni_rl.storage.run_folder import RunDirectory
from omni_rl.universal import hooks as universal
from omni_rl.universal.ask import latent_arguments


@dataclass(frozen=True)
class Exhibit:
    """One validation sample.

    Attributes:
        image: (H, W, 3) uint8; for a video, frames side by side.
        video: whether the sample is a video.
        request: as submitted.
        shapes: stream -> shape of one sample's latents.
        table: the exact schedule of the sample.
        latent_arguments: argument -> (1, ...) fp32 latents that make the pipeline start from x_T; empty if x_T itself
            does. Some pipelines normalise the latents that they receive, and some expect an image in them.
    """

    image: np.ndarray
    video: bool
    request: Request
    shapes: dict[str, tuple[int, ...]]
    table: SigmaTable
    latent_arguments: Tensors = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample, model: LoadedModel) -> Exhibit:
        """The exhibit of a sample of this model; the sample needs its whole trajectory."""
        stored = sample.trajectory
        assert stored is not None
        shapes = {name: tuple(stream["final"].shape) for name, stream in stored["latents"].items()}
        table = SigmaTable(stored["schedule", "timesteps"], stored["schedule", "sigmas"])
        exhibit = cls(image_of(sample), "video" in stored["media"].keys(), sample.request, shapes, table)
        conditioning = {n: v[None].to(model.device) for n, v in trajectory.conditioning_of(stored).items()}
        return replace(exhibit, latent_arguments=_latent_arguments(model, exhibit, conditioning))

    def start(self) -> Streams:
        """x_T, (1, ...) fp32 per stream."""
        key = self.request.initial_key
        return {name: randn_rows([key], name, INITIAL, shape) for name, shape in self.shapes.items()}


@torch.no_grad()
def _latent_arguments(model: LoadedModel, exhibit: Exhibit, conditioning: Tensors) -> Tensors:
    x, request = {name: value.to(model.device) for name, value in exhibit.start().items()}, exhibit.request
    try:
        latents = latent_arguments(model, x, conditioning, request.call)
    except ModelError:  # a model plugin stores embeddings in its own format, which the pipeline does not accept
        try:
            latents = latent_arguments(model, x, _conditioning_of_the_pipeline(model, request), request.call)
        except ModelError:  # the universal adapter cannot call this pipeline; only the plugin can
            return {}
    changed = not all(map(torch.equal, latents.values(), x.values()))
    return {name: value.cpu() for name, value in latents.items()} if changed else {}


def _conditioning_of_the_pipeline(model: LoadedModel, request: Request) -> Tensors:
    negative = None if request.negative_prompt is None else [request.negative_prompt]
    call = {**request.call, **load(request.media)}
    text = universal.encode_prompt(model=model, prompts=[request.prompt], negative_prompts=negative, call=call)
    return on_device(model, text) | universal.prepare_condition(model=model, requests=[request])


def image_of(sample: Sample) -> np.ndarray:
    """(H, W, 3) uint8: the sample's image, or frames of its video side by side."""
    assert sample.trajectory is not None
    media = media_of(dict(sample.trajectory["media"].items()))
    return strip(media["video"].data) if "video" in media else media["image"].data


def write(directory: RunDirectory, iteration: int, exhibits: Sequence[Exhibit]) -> None:
    """Store the exhibits of a validation, and delete those of iterations without a checkpoint."""
    for file in directory.images.glob("validation-*.safetensors"):
        own = re.fullmatch(r"validation-(\d+)\.safetensors", file.name)
        if own and not (directory.checkpoints / f"iteration-{own[1]}").exists():
            with writing(file, 0):
                file.unlink()
    images = {f"{i:03d}": torch.from_numpy(e.image.copy()) for i, e in enumerate(exhibits)}
    latents = {f"{i:03d}/{n}": v.contiguous() for i, e in enumerate(exhibits) for n, v in e.latent_arguments.items()}
    sheet = [
        {
            "video": e.video,
            "request": e.request.to_json(),
            "shapes": e.shapes,
            "timesteps": e.table.timesteps.tolist(),
            "sigmas": e.table.sigmas.tolist(),
        }
        for e in exhibits
    ]
    write_atomic(_file(directory, iteration), save(images | latents, {"exhibits": json.dumps(sheet)}))


def read(directory: RunDirectory, iteration: int) -> list[Exhibit]:
    """The exhibits that :func:`write` stored for that iteration; empty when it was not validated."""
    path = _file(directory, iteration)
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            sheet = json.loads(file.metadata()["exhibits"])
    except SafetensorError as error:
        hint = "resume the finished run: it repeats the last validation"
        raise CheckpointError(f"{path} is damaged: {error}", hint) from error
    return [
        Exhibit(
            tensors[f"{number:03d}"].numpy(),
            known["video"],
            Request.from_json(known["request"]),
            {name: tuple(shape) for name, shape in known["shapes"].items()},
            SigmaTable(torch.tensor(known["timesteps"]), torch.tensor(known["sigmas"])),
            {n.partition("/")[2]: value for n, value in tensors.items() if n.startswith(f"{number:03d}/")},
        )
        for number, known in enumerate(sheet)
    ]


def _file(directory: RunDirectory, iteration: int) -> Path:
    return directory.images / f"validation-{iteration:06d}.safetensors"
