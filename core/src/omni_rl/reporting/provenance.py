"""Describes the origin of a run: model, data, seed, device and versions. Written once, when the run starts."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from omni_rl._version import __version__
from omni_rl.config.resolved import Resolved
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.local import neighbours
from omni_rl.storage.fingerprint import combined_hash

FILE = "provenance.json"
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def provenance(
    resolved: Resolved, fingerprint: str, device: torch.device, media: Collection[str] = ()
) -> dict[str, Any]:
    """``model``, ``data``, ``rewards``, ``plugins``, ``seed``, ``device``, ``versions``: plain data, no absolute paths.

    Data, the files in options of rewards, and local plugin files have their name and sha256. The sha256 of a folder
    covers the names and bytes of all its files, that of a Python file also the modules beside it that it imports.

    Args:
        resolved: the configuration of the run.
        fingerprint: ``omni_rl.storage.checkpoint.fingerprint`` of the model folder.
        device: the device that trains.
        media: the image and video files of all rows. If there are some, ``media`` has their number, and a hash of the
            bytes of all.
    """
    shown = {"media": {"files": len(media), "blake2b": combined_hash(media)}} if media else {}
    return {
        "model": model(resolved, fingerprint),
        "data": _data(resolved),
        **shown,
        "rewards": _rewards(resolved),
        "plugins": [_identity(Path(str(module.__file__))) for module in resolved.local],
        "seed": resolved.config.seed,
        "device": device_name(device),
        "versions": _versions(resolved),
    }


def model(resolved: Resolved, fingerprint: str) -> dict[str, Any]:
    """The base model: its name, and a fingerprint that distinguishes it from other models with that name.

    The name is a hub id, with the commit of the snapshot, or the name of a folder.
    """
    hub = resolved.config.model.hub
    name = resolved.config.model.path
    commit = {"commit": resolved.model_path.name} if hub else {}
    named = {"name": name if hub else Path(name).name, "hub": hub, **commit}
    return {**named, "architecture": resolved.architecture, "fingerprint": fingerprint}


def _data(resolved: Resolved) -> dict[str, dict[str, str]]:
    """The prompt files of training and validation."""
    config = resolved.config
    held_out = {} if config.validation.data is None else {"validation": config.validation.data}
    files = {use: Path(data.path) for use, data in {"training": config.data, **held_out}.items()}
    return {use: _identity(file) for use, file in files.items()}


def _rewards(resolved: Resolved) -> dict[str, list[dict[str, str]]]:
    """The files that options of rewards name, such as the Python file of a reward, by the reward's label."""
    config = resolved.config
    entries = [*config.reward, *(config.validation.reward or ())]
    return {entry.label or entry.name: [_identity(file) for file in _files_in(entry.options())] for entry in entries}


def _files_in(value: Any) -> Iterator[Path]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _files_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _files_in(each)
    elif isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value and Path(value).is_absolute():
        with contextlib.suppress(OSError):
            if Path(value).is_file():
                yield Path(value)


def _identity(path: Path) -> dict[str, str]:
    beside = neighbours(path) if path.suffix == ".py" and path.is_file() else []
    if path.is_file() and not beside:
        return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    folder, files = (path.parent, [path, *beside]) if beside else (path, path.rglob("*"))
    inside = sorted((file.relative_to(folder).as_posix(), file) for file in files if file.is_file())
    lines = [f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for name, file in inside]
    return {"file": path.name, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}


def device_name(device: torch.device) -> str:
    """``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions(resolved: Resolved) -> dict[str, str]:
    """The versions of Python, of the libraries, and of every distribution that provides a plugin to the run."""
    sources = {chosen.source.rpartition(" ")[::2] for chosen in resolved.chosen()}  # "<distribution> <version>"
    plugins = {name: version for name, version in sorted(sources) if name and not Path(name).is_absolute()}
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {CORE: __version__, **plugins, "python": platform.python_version(), **libraries}
