"""The fingerprint of a model folder: a hash of every file from which weights, tokenizers and settings are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omni_rl.errors import ModelError, RunError
from omni_rl.storage.durable import write_atomic

PREFIX = "blake2b:"

_READ = (".json", ".txt", ".safetensors", ".model", ".jinja", ".tiktoken")
_SAMPLED = 16  # number of chunks of a weight file that a fingerprint of omni-rl 0.1 reads
_CHUNK = 4096  # bytes per chunk
_REMEMBERED = 4096  # files in the cache


def fingerprint(model_folder: Path) -> str:
    """``blake2b:`` and a hash over every byte of a diffusers folder's configurations, tokenizers and weights.

    It does not depend on the folder's name or path. The hash of a weight file is remembered with the file's size and
    times in ``~/.cache/omni-rl/fingerprints.json`` (or in ``$XDG_CACHE_HOME``), so that the file is read only once.

    Raises:
        ModelError: a file cannot be read.
    """
    files = list(_files(model_folder, _READ))
    known = _remembered()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda file: _hash(file, known), files))
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}", "check the model folder") from error
    _remember(known | {key: value for key, value in found if key})
    digest = hashlib.blake2b(digest_size=32)
    for file, (_, content) in zip(files, found, strict=True):
        digest.update(f"{file.relative_to(model_folder).as_posix()} {content}\n".encode())
    return PREFIX + digest.hexdigest()


def matches(model_folder: Path, stored: str, now: str | None = None) -> bool:
    """Whether a stored fingerprint is that of the folder, also if omni-rl 0.1 stored it.

    ``now``: the folder's :func:`fingerprint`, if it is known already.
    """
    if stored.startswith(PREFIX):
        return stored == (now or fingerprint(model_folder))
    return stored == sampled_fingerprint(model_folder)


def sampled_fingerprint(model_folder: Path) -> str:
    """The fingerprint in checkpoints of omni-rl 0.1: sha256 over configurations and parts of the weight files."""
    digest = hashlib.sha256()
    for file in _files(model_folder, (".json", ".txt", ".safetensors")):
        content = _sampled(file) if file.suffix == ".safetensors" else file.read_bytes()
        digest.update(f"{file.relative_to(model_folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def combined_hash(files: Collection[str]) -> str:
    """blake2b of the bytes of all files, whatever their names and order are; an unreadable file counts as empty."""
    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(_hash_or_nothing, files))
    return hashlib.blake2b("".join(found).encode(), digest_size=32).hexdigest()


def _hash_or_nothing(file: str) -> str:
    try:
        return file_hash(Path(file))
    except OSError:  # checking the data says what is wrong with it
        return ""


def file_hash(file: Path) -> str:
    """blake2b of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for file in sorted(folder.rglob("*"), key=lambda file: file.relative_to(folder).as_posix()):
        if file.suffix in suffixes and file.is_file():
            yield file


def _hash(file: Path, known: dict[str, str]) -> tuple[str, str]:
    """The key under which the hash is remembered, empty for small kinds of file, and the hash."""
    if file.suffix != ".safetensors":
        return "", file_hash(file)
    now = file.stat()
    key = f"{os.path.realpath(file)} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
    return key, known.get(key) or file_hash(file)


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "omni-rl" / "fingerprints.json"


def _remembered() -> dict[str, str]:
    try:
        data: Any = json.loads(_cache_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) and all(isinstance(value, str) for value in data.values()) else {}


def _remember(known: dict[str, str]) -> None:
    """Write the cache; a home that cannot be written costs only time."""
    if not known or known == _remembered():
        return
    try:
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_cache_file(), json.dumps(dict(list(known.items())[-_REMEMBERED:])).encode())
    except (OSError, RunError):
        return


def _sampled(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")  # of the header, which is JSON
        parts = [str(size).encode(), stream.read(min(length, size))]
        for chunk in range(_SAMPLED):
            stream.seek(8 + length + max(size - 8 - length - _CHUNK, 0) * chunk // (_SAMPLED - 1))
            parts.append(stream.read(_CHUNK))
    return b"".join(parts)
