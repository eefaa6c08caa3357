"""Memory of one rank while sharded weights are loaded, stored and read again: each in parts, and whole on every rank.

    python benchmarks/rank_memory.py [--ranks 2] [--layers 12] [--json FILE]

Qwen-Image's denoiser with fewer and narrower blocks and random weights in bf16, all of which train in bf16; the ranks
are processes on the CPU. Measured is the anonymous memory of a process, which pages of mapped files are no part of: the
peak in each phase above what the process had before it loaded anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from omni_rl.model.loading import load_model
from omni_rl.parallel.group import everyone, joined, rank
from omni_rl.parallel.whole import whole
from omni_rl.storage import checkpoint
from omni_rl.storage.tensor_files import HeldTensors
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import PolicyGradient

WIDTH = {"num_attention_heads": 12, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}


def build(folder: Path, layers: int) -> int:
    """Store the pipeline; returns the number of weights of its denoiser."""
    from diffusers import QwenImageTransformer2DModel

    import omni_rl_tiny

    omni_rl_tiny.build_random(folder / "model")
    config = json.loads((folder / "model" / "transformer" / "config.json").read_text())
    known = {k: v for k, v in config.items() if not k.startswith("_")}
    torch.manual_seed(0)
    denoiser = QwenImageTransformer2DModel(**known | WIDTH | {"num_layers": layers}).to(torch.bfloat16)
    for file in (folder / "model" / "transformer").glob("*.safetensors*"):
        file.unlink()
    denoiser.save_pretrained(folder / "model" / "transformer")
    return sum(parameter.numel() for parameter in denoiser.parameters())


def anonymous() -> float:
    """MB of this process that are pages of no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1000


@contextlib.contextmanager
def peak(found: dict[str, float], phase: str, start: float) -> Iterator[None]:
    """Write the largest memory above ``start`` inside the context, and the seconds."""
    seen, ended = [anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            seen.append(anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    begin = time.perf_counter()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    found[f"{phase}_mb"] = round(max(*seen, anonymous()) - start)
    found[f"{phase}_s"] = round(time.perf_counter() - begin, 1)


def measure(folder: Path, how: str) -> None:
    """One rank: load, shard, make moments, store, and read again."""
    found: dict[str, float] = {}
    with joined(timeout_s=200):
        start = anonymous()
        with peak(found, "load", start):
            parts = assemble(
                load_model(
                    folder / "model", device=torch.device("cpu"), precision="bf16", full=True, as_stored=how == "parts"
                ),
                algorithm=PolicyGradient(),
                train={"sharding": "sharded"},
            )
        for parameter in parts.backend.policy.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        parts.backend._optimizer.step()
        parts.backend._optimizer.zero_grad()
        with peak(found, "store", start):
            store(folder, how, *parts.backend.state())
        with peak(found, "read", start):
            path = folder / how
            tensors = checkpoint.stored(path)
            parts.backend.load_state(tensors if how == "parts" else HeldTensors(tensors), {"updates": 1})
        found["held_mb"] = round(anonymous() - start)
        (folder / f"{how}.{rank()}.json").write_text(json.dumps(found))


def store(folder: Path, how: str, tensors: dict[str, torch.Tensor], _: Any) -> None:
    """Every rank its parts, or rank 0 everything."""
    (folder / how).mkdir(exist_ok=True)
    draft = checkpoint.Draft(folder / how, folder / how)
    if how == "whole":
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}
    draft.write(tensors, everyone())
    torch.distributed.barrier()


def on_ranks(folder: Path, how: str, ranks: int) -> list[dict[str, float]]:
    """What each rank measured."""
    place = {"WORLD_SIZE": str(ranks), "OMNI_RL_STORE": str(folder / f"{how}.store"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, __file__, "--rank", how, str(folder)]
    started = [subprocess.Popen(program, env={**os.environ, **place, "RANK": str(n)}) for n in range(ranks)]
    codes = [process.wait() for process in started]
    if any(codes):
        sys.exit("a rank failed")
    return [json.loads((folder / f"{how}.{number}.json").read_text()) for number in range(ranks)]


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", nargs=2, metavar=("HOW", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        measure(Path(arguments.rank[1]), arguments.rank[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = build(Path(folder), arguments.layers)
        found = {how: on_ranks(Path(folder), how, arguments.ranks) for how in ("parts", "whole")}
    result = {"ranks": arguments.ranks, "weights": weights, "fp32_mb": round(weights * 4 / 1e6), **found}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
