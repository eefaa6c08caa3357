"""Preference pairs: chosen and rejected images per prompt, as a file stores them.

Rows of ``data:`` (jsonl, parquet) have the columns ``prompt``, ``chosen`` and ``rejected``; the latter two are paths of
images, relative to the file. Images are scaled and cropped to the size that the row is trained at, encoded once, and
kept in ``$XDG_CACHE_HOME/omni-rl/latents`` under a name that follows from their bytes, their size and the model. With
several ranks, each encodes its share of the images first; then all have them from there.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load, save
from tensordict import TensorDict

from omni_rl.authoring.data import check_images, everyone, load_image, together, write_atomic
from omni_rl.authoring.engine import Prepared, encode_ahead, forget, prepare
from omni_rl.contracts import batches, trajectory
from omni_rl.contracts.call import call_of_row, frozen
from omni_rl.contracts.events import State
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Experience, ExperienceSource, Policy
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Sample, Streams, Tensors
from omni_rl.errors import DataError
from omni_rl.schedulers import NoiseKey

SIDES = {"chosen": "latents", "rejected": "rejected"}
"""Column of the data -> entry of the batch."""

CACHE_BYTES = 20 * 2**30
"""Above this the latents that were not used for longest are deleted."""


class StoredPairs:
    """The experience source of offline preference learning; see ``omni_rl.contracts.interfaces.ExperienceSource``."""

    staleness = 0

    def __init__(
        self,
        config: Config,
        model: LoadedModel,
        hooks: Any,
        policy: Policy,
        prompts: PromptSet,
        held_out: Sequence[PromptRow],
        fingerprint: str,
    ) -> None:
        self.config, self.model, self.hooks, self.policy = config, model, hooks, policy
        self._prompts = prompts
        self._held_out = [row for row in held_out if row.metadata.keys() >= SIDES.keys()]
        self._model_key = f"{fingerprint} {model.dtype} {model.device.type}"

    def next(self, state: State) -> Experience:
        """The iteration's ``rollout.prompts`` pairs."""
        config, count = self.config, self.config.rollout.prompts
        rows = self._prompts.for_iteration(state.iteration, count, config.run_seed, config.data.shuffle)
        batch = self.pairs(config.data.path, [row for _, row in rows], state, state.iteration * count)
        return Experience(batch, {}, 2 * len(batch))

    def pairs(self, data: str, rows: Sequence[PromptRow], state: State, first: int = 0) -> TensorDict:
        """Rows of the file ``data`` as a batch (N,): text, schedule, ``latents`` and ``rejected`` per stream.

        ``first`` numbers the rows.

        Raises:
            DataError: a row lacks an image, or it cannot be read.
        """
        requests = [self._request(row, first + i, state) for i, row in enumerate(rows)]
        forget(self.model)
        with torch.no_grad():
            encode_ahead(self.model, requests, self.config.rollout.batch_size)
            ready = prepare(self.model, self.hooks, requests)
            together(lambda: self._encode_share(data, rows, ready))
            pairs = [self._pair(data, row, each) for row, each in zip(rows, ready, strict=True)]
        _prune(cache_folder())
        return trajectory.collate([Sample(r, pair) for r, pair in zip(requests, pairs, strict=True)])

    def held_out(self, state: State) -> Mapping[str, float]:
        """The loss's figures on the validation rows that are pairs, under the weights that are in place, by name."""
        if not self._held_out:
            return {}
        config, policy = self.config, self.policy
        batch = self.pairs((config.validation.data or config.data).path, self._held_out, state)
        seed = config.validation.seed
        batch = batches.change(
            batch,
            lambda rows: self.hooks.prepare_actor_batch(
                policy=policy, batch=rows, iteration=0, seed=seed, total=lambda values: values
            ),
        )
        sums: dict[str, float] = defaultdict(float)
        steps = trajectory.steps_of(batch)
        with torch.no_grad():
            for _, part in batches.parts(batch, config.train.micro_batch_size):
                for step in range(steps):
                    metrics = self.hooks.compute_loss(policy=policy, batch=part, steps=[step]).metrics
                    for name, values in metrics.items():
                        sums[name] += float(values.double().sum())
        return {name: total / (len(batch) * steps) for name, total in sums.items()}

    def state(self) -> dict[str, Any]:
        """Empty: the pairs of an iteration depend only on its number."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Nothing to release."""

    def _request(self, row: PromptRow, number: int, state: State) -> Request:
        negative, call = call_of_row(row.call, self.config.rollout.call)
        key = NoiseKey(self.config.run_seed, "pairs", state.iteration, number, 0)
        return Request(
            uid=number,
            sample_id=number,
            prompt=row.prompt,
            negative_prompt=negative,
            metadata=row.metadata,
            key=key,
            initial_key=key,
            steps=self.config.rollout.steps,
            call=call,
            policy_version=state.policy_version,
        )

    def _encode_share(self, data: str, rows: Sequence[PromptRow], ready: Sequence[Prepared]) -> None:
        """Put this rank's share of the images into the cache. One rank has nothing to share."""
        ranks = everyone()
        if ranks.size > 1:
            for row, each in list(zip(rows, ready, strict=True))[ranks.rank :: ranks.size]:
                for column in SIDES:
                    self._latents(_file(data, row, column), each)

    def _pair(self, data: str, row: PromptRow, ready: Prepared) -> TensorDict:
        """One row of the batch, batch size []."""
        request, table = ready.asked.request, ready.asked.table
        sides = {entry: self._latents(_file(data, row, column), ready) for column, entry in SIDES.items()}
        entries: dict[str, Any] = {
            **{entry: {s: {"final": x[None]} for s, x in latents.items()} for entry, latents in sides.items()},
            "schedule": {"timesteps": table.timesteps[None], "sigmas": table.sigmas[None]},
            **trajectory.text_entries(ready.conditioning, ready.tokens),
            **trajectory.identity([request]),
        }
        if numbers := trajectory.numeric_call(request.call, 1):
            entries["call"] = numbers
        (pair,) = TensorDict(entries, batch_size=[1]).cpu().unbind(0)
        return pair

    def _latents(self, file: Path, ready: Prepared) -> Streams:
        """One image's, per stream, without batch dimension, on the CPU."""
        content, call = _read(file), ready.asked.request.call
        name = hashlib.blake2b(content + f"{self._model_key} {frozen(call)}".encode(), digest_size=16).hexdigest()
        kept = cache_folder() / f"{name}.safetensors"
        with suppress(FileNotFoundError):
            os.utime(kept)  # used now: see _prune
            return load(kept.read_bytes())
        media = {"image": _image(file, call)[None]}
        encoded = self.hooks.encode_media(model=self.model, media=media, conditioning=ready.conditioning, call=call)
        latents = {s: x[0].float().cpu().contiguous() for s, x in encoded.items()}
        _keep(kept, latents)
        return latents


class OfflinePairs:
    """The hooks of an algorithm that learns from stored pairs; its trait ``offline`` is True."""

    @hookimpl
    def check_prompts(self, config: Config, path: str, rows: Sequence[PromptRow]) -> None:
        """Every row names two images, and they can be read."""
        held_out = config.validation.data
        data = held_out if held_out is not None and held_out.path == path else config.data
        require_images(path, rows, data.check)

    @hookimpl
    def experience_source(
        self,
        config: Config,
        model: LoadedModel,
        hooks: Any,
        policy: Policy,
        prompts: PromptSet,
        held_out: Sequence[PromptRow],
        fingerprint: str,
    ) -> ExperienceSource:
        """The pairs of the run's data."""
        return StoredPairs(config, model, hooks, policy, prompts, held_out, fingerprint)


def cache_folder() -> Path:
    """Where encoded images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-rl" / "latents"


def _keep(file: Path, latents: Tensors) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, save(latents))


def _prune(folder: Path) -> None:
    """Delete what was not used for longest until the rest fits into ``CACHE_BYTES``."""
    known = []
    for file in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process deletes, too
            known.append((file.stat(), file))
    size = 0
    for found, file in sorted(known, key=lambda each: each[0].st_mtime, reverse=True):
        size += found.st_size
        if size > CACHE_BYTES:
            file.unlink(missing_ok=True)


def require_images(data: str, rows: Sequence[PromptRow], check: str = "full") -> None:
    """Before anything is loaded: every row of the file ``data`` names two images, and they can be decoded.

    Args:
        check: the value of ``data.check``: which images are decoded.

    Raises:
        DataError: lists the rows that cannot be used, with file and line.
    """
    check_images(check, data, rows, lambda row: [str(_file(data, row, column)) for column in SIDES])


def _file(data: str, row: PromptRow, column: str) -> Path:
    given = row.metadata.get(column)
    if not isinstance(given, str):
        what = f"{data}: the row of {row.prompt!r} has no column {column} with an image's path"
        raise DataError(what, "pairs have the columns prompt, chosen and rejected")
    return Path(data).parent / given


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "paths are relative to the data file") from error


def _image(file: Path, call: Mapping[str, Any]) -> torch.Tensor:
    """(3, H, W) in [0, 1], scaled and cropped to the middle if the call names a size."""
    image = load_image(file)
    if "width" in call and "height" in call:
        image = ImageOps.fit(image, (call["width"], call["height"]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).movedim(-1, 0)
