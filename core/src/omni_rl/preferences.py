"""Pairs of media that somebody preferred one of: the data of offline algorithms.

Rows of ``data:`` (jsonl, parquet) with the columns ``prompt``, ``chosen`` and ``rejected``; the latter two are paths of
pictures, relative to the file. Pictures are scaled and cropped to ``rollout.call``'s size, encoded once, and kept in
``$XDG_CACHE_HOME/omni-rl/latents`` under a name that their bytes, their size and the model give.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load, save
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.call import effective_call, frozen, split_call
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.data import media_files
from omni_rl.data.prompts import PromptRow
from omni_rl.errors import DataError
from omni_rl.model.encoding import encode_ahead, forget
from omni_rl.sampling.remote.prepared import prepare
from omni_rl.schedulers.types import NoiseKey
from omni_rl.storage.durable import write_atomic

if TYPE_CHECKING:
    from omni_rl.run.start import Run

SIDES = {"chosen": "latents", "rejected": "rejected"}
"""Column of the data -> entry of the batch."""


def stored_pairs(run: Run) -> TensorDict:
    """The iteration's ``rollout.prompts`` pairs, (N,): text, schedule, ``latents`` and ``rejected`` per stream."""
    config = run.config
    rows = run.prompts.for_iteration(run.iteration, config.rollout.prompts, config.seed or 0, config.data.shuffle)
    return pairs(run, config.data.path, [row for _, row in rows], run.iteration * config.rollout.prompts)


def pairs(run: Run, data: str, rows: list[PromptRow], first: int = 0) -> TensorDict:
    """These rows of the file ``data`` as a batch (N,); ``first`` numbers them.

    Raises:
        DataError: a row lacks a picture, or it cannot be read.
    """
    negative, call = split_call(effective_call(run.config.rollout.call))
    requests = [_request(run, row, first + i, negative, call) for i, row in enumerate(rows)]
    forget(run.model)
    with torch.no_grad():
        encode_ahead(run.model, requests, run.config.rollout.batch_size)
        ready = prepare(run.model, run.hooks, requests)
        sides = {
            entry: [_latents(run, data, r, column, p.conditioning, call) for r, p in zip(rows, ready, strict=True)]
            for column, entry in SIDES.items()
        }
    table, count = ready[0].asked.table, len(rows)
    conditioning, tokens = _joined([p.conditioning for p in ready]), _joined([p.tokens for p in ready])
    entries: dict[str, Any] = {
        **{
            entry: {s: {"final": torch.stack([x[s] for x in found])} for s in found[0]}
            for entry, found in sides.items()
        },
        "schedule": {"timesteps": table.timesteps.expand(count, -1), "sigmas": table.sigmas.expand(count, -1)},
        **trajectory.text_entries(conditioning, tokens),
        **trajectory.identity(requests),
    }
    if numbers := trajectory.numeric_call(call, count):
        entries["call"] = numbers
    return TensorDict(entries, batch_size=[count]).cpu()


def _joined(rows: Sequence[Tensors]) -> Tensors:
    return {n: torch.cat([row[n] for row in rows]) for n in rows[0]}


def held_out_figures(run: Run) -> dict[str, float]:
    """The algorithm's figures on the validation rows that are pairs, under the weights that are in place, by name."""
    rows = [row for row in run.validation_rows if row.metadata.keys() >= SIDES.keys()]
    if not rows:
        return {}
    policy, size = run.backend.policy, run.config.train.micro_batch_size
    batch = pairs(run, (run.config.validation.data or run.config.data).path, rows)
    batch = run.hooks.prepare_actor_batch(policy=policy, batch=batch, iteration=0, seed=run.config.validation.seed)
    sums: dict[str, float] = defaultdict(float)
    steps = range(trajectory.steps_of(batch))
    with torch.no_grad():
        for part in batch.split(size):
            for step in steps:
                metrics = run.hooks.compute_loss(policy=policy, batch=part, step=step).metrics
                for name, values in metrics.items():
                    sums[name] += float(values.double().sum())
    return {name: total / (len(batch) * len(steps)) for name, total in sums.items()}


def _request(run: Run, row: PromptRow, number: int, negative: str | None, call: Mapping[str, Any]) -> Request:
    key = NoiseKey(run.config.seed or 0, "pairs", run.iteration, number, 0)
    return Request(
        uid=number,
        sample_id=number,
        prompt=row.prompt,
        negative_prompt=negative,
        metadata=row.metadata,
        key=key,
        initial_key=key,
        steps=run.config.rollout.steps,
        call=call,
        policy_version=run.policy_version,
    )


def _latents(
    run: Run, data: str, row: PromptRow, column: str, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams:
    """One picture's, per stream, without batch dimension, on the CPU."""
    file = _file(data, row, column)
    content = _read(file)
    name = hashlib.blake2b(content + f"{run.fingerprint} {frozen(call)}".encode(), digest_size=16).hexdigest()
    kept = cache_folder() / f"{name}.safetensors"
    if kept.exists():
        return load(kept.read_bytes())
    media = {"image": _picture(file, call)[None]}
    encoded = run.hooks.encode_media(model=run.model, media=media, conditioning=conditioning, call=call)
    latents = {s: x[0].float().cpu().contiguous() for s, x in encoded.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, save(latents))
    return latents


def cache_folder() -> Path:
    """Where encoded pictures are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-rl" / "latents"


def require_pictures(data: str, rows: Sequence[PromptRow]) -> None:
    """Before anything is loaded: every row of the file ``data`` names two pictures, and they are there.

    Raises:
        DataError: the first that is not.
    """
    for row in rows:
        for column in SIDES:
            file = _file(data, row, column)
            if not file.is_file():
                raise DataError(f"{data}: {file} does not exist", "paths are relative to the data file")


def _file(data: str, row: PromptRow, column: str) -> Path:
    given = row.metadata.get(column)
    if not isinstance(given, str):
        what = f"{data}: the row of {row.prompt!r} has no column {column} with a picture's path"
        raise DataError(what, "pairs have the columns prompt, chosen and rejected")
    return Path(data).parent / given


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "paths are relative to the data file") from error


def _picture(file: Path, call: Mapping[str, Any]) -> torch.Tensor:
    """(3, H, W) in [0, 1], scaled and cropped to the middle if the call names a size."""
    picture = media_files.load_image(file)
    if "width" in call and "height" in call:
        picture = ImageOps.fit(picture, (call["width"], call["height"]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).movedim(-1, 0)
