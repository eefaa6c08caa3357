"""The weights to export: one copy of the weights from one checkpoint, and the run's data about it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl.config.resolve import Resolved, resolve
from omni_rl.contracts.schema import Lora
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError, ModelError
from omni_rl.model.weights import plain_name
from omni_rl.reporting import exhibits
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.reporting.provenance import FILE
from omni_rl.storage import checkpoint
from omni_rl.storage.fingerprint import matches
from omni_rl.storage.run_folder import RunDirectory


@dataclass(frozen=True)
class Source:
    """Weights of a run.

    Attributes:
        directory, resolved: the run and its configuration.
        origin: its ``omni_rl.reporting.provenance``.
        checkpoint: the folder with the weights.
        state: the checkpoint's state.
        weights: the copy: ``policy``, ``ema``, or another copy that the algorithm keeps.
    """

    directory: RunDirectory
    resolved: Resolved
    origin: dict[str, Any]
    checkpoint: Path
    state: dict[str, Any]
    weights: str

    @property
    def iteration(self) -> int:
        """Number of completed iterations."""
        return int(self.state["iteration"])

    @property
    def lora(self) -> Lora | None:
        """The LoRA settings of the run; None if it trained the whole denoiser."""
        return self.resolved.config.model.lora

    def tensors(self) -> dict[str, Tensors]:
        """Tensors by denoiser and diffusers name; LoRA tensors as PEFT saves them."""
        found: dict[str, Tensors] = defaultdict(dict)
        for name, tensor in checkpoint.load_group(self.checkpoint, self.weights).items():
            component, _, rest = plain_name(name).partition(".")
            found[component][rest] = tensor
        return dict(found)

    def exhibits(self) -> list[Exhibit]:
        """The validation samples that were drawn with exactly these weights; empty if there are none."""
        if self.weights != _validated(self.resolved):
            return []
        return exhibits.read(self.directory, self.iteration)

    def base(self) -> Path:
        """The folder of the run's base model; missing files of a hub model are downloaded first.

        Raises:
            ModelError: the hub does not provide the model.
            CheckpointError: the folder now has another model.
        """
        model = self.resolved.config.model
        folder = _download(model.path, self.origin["model"]["commit"]) if model.hub else self.resolved.model_path
        if not matches(folder, self.state["model_fingerprint"]):
            hint = "give the folder that the run was started with: model.path=FOLDER"
            raise CheckpointError(f"{folder} is not the model that {self.directory.path} was trained on", hint)
        return folder


def open_source(run: str | Path, overrides: Sequence[str], iteration: int | None, weights: str | None) -> Source:
    """Open the newest checkpoint, or that of ``iteration``; default weights: those that validation sampled with.

    Raises:
        CheckpointError: there is no such run, checkpoint or copy of the weights, or the checkpoint is damaged.
        UserError: the run's model or plugins are no longer available.
    """
    directory = RunDirectory.open(run)
    resolved = resolve(directory.config_file, overrides)
    folder = _newest(directory) if iteration is None else _of_iteration(directory, iteration)
    state = checkpoint.load_state(folder, resolved.architecture)
    origin = _origin(directory)
    return Source(directory, resolved, origin, folder, state, weights or _validated(resolved))


def _origin(directory: RunDirectory) -> dict[str, Any]:
    """The run's provenance; CheckpointError when it is missing or damaged."""
    path = directory.path / FILE
    try:
        origin: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        hint = "the run may be damaged, or written by an older omni-rl"
        raise CheckpointError(f"{path} cannot be read: {error}", hint) from error
    return origin


def _validated(resolved: Resolved) -> str:
    """As ``omni_rl.run.start.Run.evaluated_weights``."""
    return "policy" if resolved.config.train.ema is None else "ema"


def _newest(directory: RunDirectory) -> Path:
    found = checkpoint.latest(directory)
    if found is None:
        hint = "a run saves at its end, on Ctrl-C, and every train.checkpoint_every iterations"
        raise CheckpointError(f"{directory.path} has no checkpoint to export", hint)
    return found


def _of_iteration(directory: RunDirectory, iteration: int) -> Path:
    folder = directory.checkpoints / f"iteration-{iteration:06d}"
    if not folder.is_dir():
        kept = sorted(int(path.name.rpartition("-")[2]) for path in directory.checkpoints.glob("iteration-??????"))
        what = f"{directory.path} has no checkpoint of iteration {iteration}"
        raise CheckpointError(what, f"it has those of: {', '.join(map(str, kept)) or 'none'}")
    return folder


def _download(name: str, commit: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, revision=commit, use_safetensors=True))
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} at commit {commit} cannot be downloaded: {why}", "try again later") from error
