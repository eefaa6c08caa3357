"""The tensors of a checkpoint: one safetensors file, or one for each rank that holds a part of them.

A file of parts has the format of :class:`torch.distributed.checkpoint.HuggingFaceStorageWriter`: the header says in
``DCP_SHARDING_INFO`` where each part begins in its tensor. torch's reader of that format reads both kinds of files,
whatever the number of ranks now. Its functions for writing are not used: there, ranks send each other pickles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from omni_rl.contracts.types import Tensors
from omni_rl.parallel.group import Ranks
from omni_rl.parallel.whole import begins_at, is_first_to_hold, own_part, part_of
from omni_rl.storage.durable import sync

ALONE = "tensors.safetensors"
"""The file of tensors that one process holds."""


def write(folder: Path, tensors: Tensors, ranks: Ranks) -> dict[str, Any]:
    """Write what this rank holds of ``tensors``: its parts of sharded ones; rank 0 also writes all others.

    Returns:
        ``{file: {"bytes": size, "sha256": hash}}`` of the file that was written; empty if another rank writes all.
    """
    sharded = {name for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    if not sharded and ranks.rank:
        return {}
    mine = {n: t for n, t in tensors.items() if (is_first_to_hold(t) if n in sharded else ranks.rank == 0)}
    file = folder / (_file_of(ranks.rank, ranks.size) if sharded else ALONE)
    save_file(_storable(mine), file, metadata={"format": "pt"} | (_begins(mine) if sharded else {}))
    sync(file)
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}}


def _file_of(rank: int, size: int) -> str:
    return f"tensors-{rank + 1:05d}-of-{size:05d}.safetensors"


def is_whole(files: Iterable[str]) -> bool:
    """Whether these are the names of all files of a checkpoint."""
    found = sorted(files)
    return found in ([ALONE], [_file_of(rank, len(found)) for rank in range(len(found))])


def _begins(tensors: Tensors) -> dict[str, str]:
    begins = {name: {"saved_offsets": begins_at(tensor)} for name, tensor in tensors.items()}
    return {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(begins)}


def _storable(tensors: Tensors) -> Tensors:
    """Parts on the CPU, contiguous and without shared memory, as safetensors requires."""
    stored: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        here = own_part(tensor).to("cpu").contiguous()
        memory = here.untyped_storage().data_ptr()
        stored[name] = here.clone() if memory in seen else here
        seen.add(memory)
    return stored


def sha256(file: Path) -> str:
    """The hash of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(file: Path) -> None:
    """Raise OSError unless a file can be opened and says where its parts belong."""
    try:
        with safe_open(file, framework="pt") as content:
            names, begins = content.keys(), (content.metadata() or {}).get("DCP_SHARDING_INFO")
            if begins is not None:
                known = json.loads(begins)
                _ = [list(map(int, known[name]["saved_offsets"])) for name in names]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise OSError(f"{file.name} is damaged: {error}") from error


class StoredTensors(Mapping[str, torch.Tensor]):
    """The tensors in the files of a checkpoint's folder, by name. Each access reads one tensor to the CPU."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when a file is missing or not intact."""
        files = sorted(folder.glob("*.safetensors"))
        if not is_whole(file.name for file in files):
            raise OSError("a file of its tensors is missing")
        for file in files:
            _check(file)
        self._reader = HuggingFaceStorageReader(str(folder))
        self._metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        self._known = cast("dict[str, TensorStorageMetadata]", self._metadata.state_dict_metadata)

    def __getitem__(self, name: str) -> torch.Tensor:
        known = self._known[name]
        return self._read_into(name, torch.empty(known.size, dtype=known.properties.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def shape(self, name: str) -> torch.Size:
        """The shape of the whole tensor."""
        return self._known[name].size

    def part(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor that is sharded as ``like`` is; nothing else of it is read."""
        if not isinstance(like, DTensor):
            return self[name]
        part = torch.empty_like(like, dtype=self._known[name].properties.dtype)
        return own_part(self._read_into(name, part) if own_part(part).numel() else part)

    def _read_into(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        planner = DefaultLoadPlanner()
        planner.set_up_planner({name: tensor}, self._metadata, is_coordinator=True)
        plan = self._reader.prepare_local_plan(planner.create_local_plan())
        self._reader.read_data(planner.finish_plan(plan), planner)
        return tensor


class HeldTensors(dict[str, torch.Tensor]):
    """Tensors in memory, whole or sharded, with the functions of :class:`StoredTensors`."""

    def shape(self, name: str) -> torch.Size:
        """The shape of the whole tensor."""
        return self[name].shape

    def part(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor that is sharded as ``like`` is."""
        value = self[name]
        return own_part(value) if isinstance(value, DTensor) else part_of(value, like)
