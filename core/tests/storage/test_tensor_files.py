"""The tensors of a checkpoint that several ranks write, each a process, and that any number of ranks reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from omni_rl.errors import CheckpointError
from omni_rl.parallel.group import everyone, joined, rank, world_size
from omni_rl.parallel.whole import whole
from omni_rl.storage import checkpoint
from omni_rl.storage.checkpoint_sheet import verify
from omni_rl.storage.run_folder import RunDirectory
from omni_rl.storage.tensor_files import HeldTensors, StoredTensors

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("tensor_files")]  # the processes start once

PLAIN = ("optimizer/policy/step", "policy/plain")
REPLICATED = "-of-replicas"


def values() -> dict[str, torch.Tensor]:
    """Tensors of every kind of shape: fewer rows than ranks, no even division, one dimension, none."""
    shapes = {"policy/one_row": (1, 3), "policy/seven": (7, 2, 2), "policy/bias": (5,), "policy/many": (16, 3)}
    drawn = {name: torch.randn(shape, generator=torch.Generator().manual_seed(7)) for name, shape in shapes.items()}
    return {
        **drawn,
        "policy/half": drawn["policy/seven"].bfloat16(),
        "policy/none": torch.empty(0, 4),
        "policy/seven-of-replicas": drawn["policy/seven"] + 1,
        "policy/plain": torch.arange(3),
        "optimizer/policy/step": torch.tensor(4.0),
    }


def sharded() -> dict[str, torch.Tensor]:
    """This rank's parts of :func:`values`; some are held twice, by two groups of ranks."""
    flat = init_device_mesh("cpu", (world_size(),))
    pairs = init_device_mesh("cpu", (2, world_size() // 2)) if world_size() % 2 == 0 else None
    found = {}
    for name, value in values().items():
        if name in PLAIN:
            found[name] = value
        elif name.endswith(REPLICATED) and pairs is not None:
            found[name] = distribute_tensor(value, pairs, [Replicate(), Shard(0)])
        else:
            found[name] = distribute_tensor(value, flat, [Shard(0)])
    return found


def main(task: str, folder: Path) -> None:
    """One rank: writes its parts to ``folder``, or reads them and compares them."""
    with joined(timeout_s=40):
        if task == "write":
            entries = checkpoint.Draft(folder, folder).write(sharded(), everyone())
            (folder / f"{rank()}.json").write_text(json.dumps(entries))
            return
        stored = StoredTensors(folder)
        for name, like in sharded().items():
            part = stored.part(name, like)
            held = HeldTensors({n: whole(t) for n, t in stored.items()} if name in PLAIN else {name: stored[name]})
            assert torch.equal(part, held.part(name, like)), name
            assert torch.equal(part, like.to_local() if isinstance(like, DTensor) else like), name


def on_ranks(count: int, task: str, folder: Path) -> None:
    """Run :func:`main` on ``count`` ranks."""
    place = {"WORLD_SIZE": str(count), "OMNI_RL_STORE": str(folder.parent / f"{task}-{count}"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, __file__, task, str(folder)]
    started = [
        subprocess.Popen(program, env={**os.environ, **place, "RANK": str(each)}, stderr=subprocess.PIPE, text=True)
        for each in range(count)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(said)


@pytest.fixture(scope="module", params=[2, 4])
def written(request, tmp_path_factory) -> Path:
    """A complete checkpoint that several ranks have written."""
    run = RunDirectory.create(tmp_path_factory.mktemp("run") / f"{request.param}-ranks")
    draft = checkpoint.begin(run, 3)
    on_ranks(request.param, "write", draft.folder)
    entries: dict[str, Mapping[str, object]] = {}
    for file in sorted(draft.folder.glob("*.json")):
        entries |= json.loads(file.read_text())
        file.unlink()
    state = {"iteration": 3, "policy_version": 3, "architecture": "A", "model_fingerprint": "f"}
    return draft.complete(entries, state, keep=1)


def test_one_process_reads_what_ranks_wrote(written):
    tensors, state = checkpoint.load(written)
    assert state["iteration"] == 3
    assert tensors.keys() == values().keys()
    for name, value in values().items():
        assert torch.equal(tensors[name], value), name
        assert tensors[name].dtype == value.dtype
    assert checkpoint.load_group(written, "policy").keys() == {n.removeprefix("policy/") for n in values()} - {
        "optimizer/policy/step"
    }


def test_torch_reads_it(written):
    """The files are those of torch's own format."""
    found = {name: torch.zeros_like(value) for name, value in values().items()}
    with pytest.warns(UserWarning, match="single process"):
        dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(written)), no_dist=True)
    assert all(torch.equal(found[name], value) for name, value in values().items())


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_ranks_reads_its_parts(written, count):
    on_ranks(count, "read", written)


def test_each_part_is_stored_once(written):
    """Also of tensors that several ranks hold."""
    held = sum(value.nbytes for value in values().values())
    stored = sum(file.stat().st_size for file in written.glob("*.safetensors"))
    headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in written.glob("*.safetensors"))
    assert stored - headers == held


def test_a_missing_part_is_named(written):
    last = max(written.glob("*.safetensors"))
    aside = last.rename(written.parent / last.name)
    try:
        with pytest.raises(CheckpointError, match=rf"{last.name} is missing"):
            checkpoint.load(written)
        with pytest.raises(CheckpointError, match="a file of its tensors is missing"):
            checkpoint.stored(written)
    finally:
        aside.rename(last)
    verify(written)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
