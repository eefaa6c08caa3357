"""Writes the results of a run for users: the gate's rows, validations, images, the report."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from omni_rl.contracts.input_files import CONFIGURATION, PROMPTS, parse_json, read_regular, require_regular
from omni_rl.contracts.media import media_of
from omni_rl.contracts.verdicts import Row, Verdicts
from omni_rl.errors import CheckpointError
from omni_rl.reporting import exhibits, page, video_files
from omni_rl.reporting.health import health, reward_figures
from omni_rl.reporting.image_grids import before_after, grid
from omni_rl.reporting.validated import SHOWN, Validated
from omni_rl.storage.durable import replacing, write_atomic, writing
from omni_rl.storage.run_folder import RunDirectory, is_row

COLUMNS = 8
"""Images per row of a grid."""

PLAYED = 8
"""Number of videos that each validation writes."""

_LARGEST_BEFORE = 64 * 1024**3
"""Bytes of the first validation's pictures."""


def write_gate(directory: RunDirectory, rows: Sequence[Row]) -> None:
    """``gate.json``: every row of the gate."""
    directory.write_json("gate.json", Verdicts(rows).to_json())


def read_gate(directory: RunDirectory) -> list[Row]:
    """The rows of ``gate.json``; none when the gate was off."""
    path = directory.path / "gate.json"
    try:
        if not path.exists():
            return []
        return [Row(**row) for row in parse_json(read_regular(path, CONFIGURATION).decode())]
    except (ValueError, TypeError) as error:
        hint = f"the report can do without it: rm {shlex.quote(str(path))}"
        raise CheckpointError(f"{path} is damaged", hint) from error


def write_validation(directory: RunDirectory, validated: Validated) -> None:
    """Write a line of ``validation.jsonl``, a grid in ``images/``, and the grid's images without loss.

    All images of the first validation are stored, for the report.
    """
    earlier = [row for row in validations(directory) if row["iteration"] < validated.iteration]
    _write_validations(directory, [*earlier, {"iteration": validated.iteration, **validated.row()}])
    images = validated.images()
    sheet = grid(list(images[:SHOWN]), _captions(validated)[:SHOWN], COLUMNS)
    write_png(directory.images / f"validation-{validated.iteration:06d}.png", sheet)
    _write_videos(directory, validated)
    exhibits.write(directory, validated.iteration, validated.exhibits)
    if validated.iteration == 0 or not has_before(directory):
        write_atomic(before_file(directory), save({"images": torch.from_numpy(images), "rewards": validated.rewards}))


def drop_validation(directory: RunDirectory, iteration: int) -> None:
    """Delete a line of ``validation.jsonl``, so that the validation is made again."""
    _write_validations(directory, [row for row in validations(directory) if row["iteration"] != iteration])


def _write_validations(directory: RunDirectory, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(directory.path / "validation.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_png(path: Path, image: Image.Image, then: str = "") -> None:
    """Write an image atomically; ``then`` is the hint if the disk is full."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue(), then)


def _write_videos(directory: RunDirectory, validated: Validated) -> None:
    """Write ``videos/validation-<iteration>-<sample>.mp4`` for the first video samples, if PyAV is installed."""
    drawn = [(i, s.trajectory) for i, s in enumerate(validated.samples[:PLAYED]) if s.trajectory is not None]
    clips = {i: media for i, row in drawn if "video" in (media := media_of(dict(row["media"].items())))}
    if not clips or not video_files.available():
        return
    with writing(directory.videos, 0):
        directory.videos.mkdir(exist_ok=True)
    for number, media in clips.items():
        path = directory.videos / f"validation-{validated.iteration:06d}-{number:02d}.mp4"
        with replacing(path, media["video"].data.nbytes // 10) as file:
            video_files.write(file, media)


def validations(directory: RunDirectory) -> list[dict[str, Any]]:
    """The rows of ``validation.jsonl``.

    Raises:
        CheckpointError: a line is damaged.
    """
    path = directory.path / "validation.jsonl"
    if not path.exists():
        return []
    lines = read_regular(path, PROMPTS, CheckpointError).decode(errors="replace").splitlines()
    return [_validation_row(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


def _validation_row(where: str, line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        row = None
    if not is_row(row):
        raise CheckpointError(f"{where} is damaged", "delete that line; the report then lacks that validation")
    known: dict[str, Any] = row
    return known


def history(directory: RunDirectory) -> list[dict[str, float]]:
    """The metrics with the validations merged in by iteration, the one before training included."""
    held_out = {row["iteration"]: row for row in validations(directory)}
    first: dict[str, float] = held_out.get(0, {"iteration": 0})
    return [first] + [{**row, **held_out.get(row["iteration"], {})} for row in directory.metrics()]


def before(directory: RunDirectory) -> tuple[np.ndarray, torch.Tensor]:
    """The images (N, H, W, 3) uint8 of the first validation in the order of ``sample_id``, and their rewards (N,).

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    file = before_file(directory)
    try:
        require_regular(file, _LARGEST_BEFORE)
        kept = load(file.read_bytes())
        images, rewards = kept["images"], kept["rewards"]
        if images.dtype != torch.uint8 or images.ndim != 4 or rewards.shape != images.shape[:1]:
            raise ValueError("other shapes than those of pictures and their rewards")
        return images.numpy(), rewards
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or missing", _compare_with_now(directory)) from error


def check_report(directory: RunDirectory, samples: int | None = None) -> None:
    """Check what the report of a resumed run needs, before the run goes on. A missing file of the first validation is
    no error: the report then compares with the weights of the checkpoint.

    Args:
        samples: the number of samples of a validation, if it is known.

    Raises:
        CheckpointError: a file is damaged, or a validation now has another number of samples.
    """
    validations(directory)
    read_gate(directory)
    drawn = len(before(directory)[0]) if has_before(directory) else samples
    if samples not in (None, drawn):
        what = f"the first validation of {directory.path} has {drawn} samples, but a validation now has {samples}"
        hint = f"set validation.prompts and samples_per_prompt as before; {_compare_with_now(directory)}"
        raise CheckpointError(f"{what}: the report cannot compare them", hint)


def has_before(directory: RunDirectory) -> bool:
    """Whether the first validation's pictures are stored."""
    return before_file(directory).exists()


def before_file(directory: RunDirectory) -> Path:
    """The file with the first validation's pictures."""
    return directory.images / "before.safetensors"


def _compare_with_now(directory: RunDirectory) -> str:
    remove = shlex.quote(str(before_file(directory)))
    return f"to compare with the weights of the checkpoint instead: rm -f {remove}, then resume again"


def _captions(validated: Validated) -> list[str]:
    values = validated.rewards.tolist()
    return [f"{v:.2f} {s.request.prompt}" for v, s in zip(values, validated.samples, strict=True)]


@dataclass(frozen=True)
class Report:
    """What the page tells beside the run directory's own files.

    Attributes:
        title: of the page.
        after: the last validation.
        without_guidance: the same prompts and noise with guidance switched off; None where there is no guidance.
    """

    title: str
    after: Validated
    without_guidance: Validated | None = None


def write_report(directory: RunDirectory, report: Report) -> None:
    """``report.html`` and ``images/before_after.png``: curves, images on equal noise, health figures."""
    first, rewards = before(directory)
    after = report.after
    images, uids = after.images(), [s.request.uid for s in after.samples]
    figures = {"before": _figures(first, uids, rewards), "after": _figures(images, uids, after.rewards)}
    if report.without_guidance is not None:
        plain = report.without_guidance
        figures["after, guidance off"] = _figures(plain.images(), uids, plain.rewards)
    prompts = [s.request.prompt for s in after.samples[:SHOWN]]
    shown = list(first[:SHOWN]), list(images[:SHOWN])
    write_png(directory.images / "before_after.png", before_after(*shown, prompts))
    page.write_report(
        directory.path / "report.html",
        title=report.title,
        config_yaml=directory.config_file.read_text(),
        metrics=history(directory),
        before=shown[0],
        after=shown[1],
        captions=prompts,
        health=figures,
        notes=[f"{row.name}: {row.detail}" for row in read_gate(directory)],
    )


def _figures(images: np.ndarray, uids: Sequence[int], rewards: torch.Tensor) -> dict[str, float]:
    """Samples without a reward, among them those that the engine failed to draw, count in no figure."""
    scored = ~rewards.isnan().numpy()
    if not scored.any():
        return {}
    return {**reward_figures(rewards.numpy()), **health(images[scored], np.asarray(uids)[scored])}


def guidance_off(call: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether classifier-free guidance is configured, and the arguments that switch it off.

    A model trained without guidance can look worse with it and the other way round; the report shows both.
    """
    scale = next((k for k in ("true_cfg_scale", "guidance_scale") if float(call.get(k) or 0) > 1), None)
    if scale is None or "negative_prompt" not in call:
        return False, {}
    return True, {scale: 1.0, "negative_prompt": None}
