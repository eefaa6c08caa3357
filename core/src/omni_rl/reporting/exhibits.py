"""A validation's pictures exactly as they were drawn, with all that it takes to draw them again.

``images/validation-000041.safetensors`` holds the same pictures as the grid of that name; its header holds the rest as
JSON. Draws are declared (:mod:`omni_rl.schedulers.randomness`), so that x_T is kept as its key.
"""

from __future__ import annotations

import json
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
from omni_rl.reporting.pictures import strip
from omni_rl.schedulers.randomness import INITIAL, randn_rows
from omni_rl.storage.durable import write_atomic
from omni_rl.storage.run_folder import RunDirectory
from omni_rl.universal import hooks as universal
from omni_rl.universal.ask import latent_arguments


@dataclass(frozen=True)
class Exhibit:
    """One validation sample.

    Attributes:
        picture: (H, W, 3) uint8; of a video, frames side by side.
        video: whether it is one.
        request: as submitted.
        shapes: per stream, the latents of the sample.
        table: the exact schedule it was drawn with.
        given: (1, ...) fp32 by argument, what the pipeline is to be given for it to start from x_T; empty where that is
            x_T itself. Some normalise what they are given, some want a picture in it.
    """

    picture: np.ndarray
    video: bool
    request: Request
    shapes: dict[str, tuple[int, ...]]
    table: SigmaTable
    given: Tensors = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample, model: LoadedModel) -> Exhibit:
        """From a sample with its whole trajectory, of this model."""
        drawn = sample.trajectory
        assert drawn is not None
        shapes = {name: tuple(stream["final"].shape) for name, stream in drawn["latents"].items()}
        table = SigmaTable(drawn["schedule", "timesteps"], drawn["schedule", "sigmas"])
        found = cls(picture(sample), "video" in drawn["media"].keys(), sample.request, shapes, table)
        conditioning = {n: v[None].to(model.device) for n, v in trajectory.conditioning_of(drawn).items()}
        return replace(found, given=_given(model, found, conditioning))

    def start(self) -> Streams:
        """x_T, (1, ...) fp32 per stream."""
        key = self.request.initial_key
        return {name: randn_rows([key], name, INITIAL, shape) for name, shape in self.shapes.items()}


@torch.no_grad()
def _given(model: LoadedModel, exhibit: Exhibit, conditioning: Tensors) -> Tensors:
    x, request = {name: value.to(model.device) for name, value in exhibit.start().items()}, exhibit.request
    try:
        given = latent_arguments(model, x, conditioning, request.call)
    except ModelError:  # a plugin keeps texts in a form of its own
        try:
            given = latent_arguments(model, x, _as_the_pipeline_keeps_it(model, request), request.call)
        except ModelError:  # and it alone knows how the pipeline is asked
            return {}
    changed = not all(map(torch.equal, given.values(), x.values()))
    return {name: value.cpu() for name, value in given.items()} if changed else {}


def _as_the_pipeline_keeps_it(model: LoadedModel, request: Request) -> Tensors:
    negative = None if request.negative_prompt is None else [request.negative_prompt]
    call = {**request.call, **load(request.media)}
    text = universal.encode_prompt(model=model, prompts=[request.prompt], negative_prompts=negative, call=call)
    return on_device(model, text) | universal.prepare_condition(model=model, requests=[request])


def picture(sample: Sample) -> np.ndarray:
    """(H, W, 3) uint8: the sample's image, or frames of its video side by side."""
    assert sample.trajectory is not None
    media = media_of(dict(sample.trajectory["media"].items()))
    return strip(media["video"].data) if "video" in media else media["image"].data


def write(directory: RunDirectory, iteration: int, exhibits: Sequence[Exhibit]) -> None:
    """Keep the exhibits of a validation for as long as there is a checkpoint of its iteration."""
    for file in directory.images.glob("validation-*.safetensors"):
        if not (directory.checkpoints / file.stem.replace("validation", "iteration")).exists():
            file.unlink()
    pictures = {f"{i:03d}": torch.from_numpy(e.picture.copy()) for i, e in enumerate(exhibits)}
    given = {f"{i:03d}/{name}": value.contiguous() for i, e in enumerate(exhibits) for name, value in e.given.items()}
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
    write_atomic(_file(directory, iteration), save(pictures | given, {"exhibits": json.dumps(sheet)}))


def read(directory: RunDirectory, iteration: int) -> list[Exhibit]:
    """What :func:`write` kept of that iteration; empty when it was not validated."""
    path = _file(directory, iteration)
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            sheet = json.loads(file.metadata()["exhibits"])
    except SafetensorError as error:
        hint = "resume the finished run: it is validated again"
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
