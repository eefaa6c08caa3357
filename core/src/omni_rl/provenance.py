"""Where a run comes from: what it trained, on what, and with which versions. Written once, when it starts."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omni_rl import __version__
from omni_rl.config.resolved import Resolved
from omni_rl.plugins.discovery import CORE

if TYPE_CHECKING:
    from omni_rl.run import Run

FILE = "provenance.json"
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def provenance(run: Run) -> dict[str, Any]:
    """Plain data: ``model``, ``data``, ``seed``, ``device``, ``versions``. It holds no path of this machine."""
    return {
        "model": model(run.resolved, run.fingerprint),
        "data": _data(run.resolved),
        "seed": run.config.seed,
        "device": _device(run.model.device),
        "versions": _versions(run.resolved),
    }


def model(resolved: Resolved, fingerprint: str) -> dict[str, Any]:
    """The base: its name, and what tells it from others of that name.

    A model hub's id with the snapshot's commit, or the name of a folder; of both, ``omni_rl.checkpoint.fingerprint``.
    """
    hub = resolved.config.model.hub
    name = resolved.config.model.path
    commit = {"commit": resolved.model_path.name} if hub else {}
    known = {"name": name if hub else Path(name).name, "hub": hub, **commit}
    return {**known, "architecture": resolved.architecture, "fingerprint": fingerprint}


def _data(resolved: Resolved) -> dict[str, dict[str, str]]:
    """Prompt files by their use, each with the sha256 of its bytes."""
    config = resolved.config
    held_out = {} if config.validation.data is None else {"validation": config.validation.data}
    files = {use: Path(data.path) for use, data in {"training": config.data, **held_out}.items()}
    return {use: {"file": file.name, "sha256": _sha256(file)} for use, file in files.items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions(resolved: Resolved) -> dict[str, str]:
    """Python, the libraries, and every distribution that provides something to the run."""
    sources = {chosen.source.rpartition(" ")[::2] for chosen in resolved.chosen()}  # "<distribution> <version>"
    plugins = {name: version for name, version in sorted(sources) if name and not Path(name).is_absolute()}
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {CORE: __version__, **plugins, "python": platform.python_version(), **libraries}
