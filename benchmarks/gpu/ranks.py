"""Compares one GPU with all GPUs of this machine: Qwen-Image at full size with LoRA, and a cut one with all weights.

Weights are random, so the runs measure and learn nothing. Each case is a run of the command line; its rows of
metrics.jsonl are read afterwards. ``lora`` has the same work for each GPU (16 images); ``full`` the same work in total,
so that its figures must be those of one GPU but for rounding.

    python benchmarks/gpu/ranks.py WORK_FOLDER --json ranks.json [--cases lora,full] [--layers 60] [--cut 6]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parents[1]
BRIEF = ("validation.every=0", "validation.prompts=1", "validation.samples_per_prompt=1", "validation.steps=2")
SMALL = (
    "model.lora=null",
    "train.lr=1e-5",
    "rollout.prompts=4",
    "rollout.group_size=4",
    "rollout.batch_size=4",
    "train.micro_batch_size=2",
    "train.mini_batch_prompts=2",
    "gate=off",
)
TIMES = ("time/rollout_s", "time/update_s", "time/iteration_s", "perf/samples_per_s", "perf/peak_memory_gib")


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.jsonl``; none if the run has not written it."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class Runs:
    """Runs of the command line in one work folder."""

    def __init__(self, work: Path, device: str, size: str, iterations: int) -> None:
        self.work, self.device, self.size, self.iterations = work, device, size, iterations
        self.variants: Sequence[str] = ()
        self.done: dict[str, Any] = {}

    def run(self, name: str, ranks: int, model: str, *overrides: str) -> list[dict[str, float]]:
        """Train once; returns the metrics."""
        launcher = f"launcher={{name: torchrun, processes: {ranks}}}" if ranks > 1 else "launcher=local"
        size = f"rollout.call={{height: {self.size}, width: {self.size}, true_cfg_scale: 4.0, negative_prompt: ' '}}"
        files = (f"model.path={self.work / model}", f"data.path={self.work / model / 'prompts.txt'}")
        device = f"device={self.device}" if ranks > 1 or self.device == "cpu" else f"device={self.device}:0"
        words = [launcher, device, size, *files, *BRIEF, "train.checkpoint_every=0", *overrides]
        started = time.perf_counter()
        command = ["omni-rl", "train", str(HERE / "full_size.yaml"), "--run-dir", str(self.work / name), *words]
        ended = subprocess.run(
            ["timeout", "200", *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        rows = rows_of(self.work / name)
        self.done[name] = {
            "ranks": ranks,
            "overrides": list(overrides),
            "code": ended.returncode,
            "seconds": round(time.perf_counter() - started, 1),
            "rows": rows,
            "gate": json.loads(gate.read_text()) if (gate := self.work / name / "gate.json").exists() else None,
        }
        print(name, ended.returncode, self.done[name]["seconds"], flush=True)
        print([{k: round(r[k], 2) for k in TIMES if k in r} for r in rows], flush=True)
        if ended.returncode:
            print(ended.stdout[-3000:], flush=True)
        return rows


def lora(runs: Runs, gpus: int) -> Mapping[str, float]:
    """16 images for each GPU; the first iteration warms up."""
    common = ("gate=off", f"train.iterations={runs.iterations}")
    one = runs.run("lora-one", 1, "full-size", *common)
    all_ = runs.run(
        "lora-all", gpus, "full-size", *common, f"rollout.prompts={2 * gpus}", f"train.mini_batch_prompts={gpus}"
    )
    rate = [sum(r["perf/samples_per_s"] for r in rows[1:]) / max(1, len(rows) - 1) for rows in (one, all_)]
    return {"lora_images_per_s_one": rate[0], "lora_images_per_s_all": rate[1], "lora_speedup": rate[1] / rate[0]}


def full(runs: Runs, gpus: int) -> Mapping[str, float]:
    """The same images on one GPU, on all with sharded weights, and with the other options of memory."""
    steps = ("train.iterations=3",)
    one = runs.run("full-one", 1, "cut", *SMALL, *steps)
    found = {}
    variants = {
        "full-sharded": ("train.sharding=sharded", "gate=on"),
        "full-replicated": ("train.sharding=replicated",),
        "full-offload": ("train.sharding=sharded", "train.offload=true"),
        "full-compile": ("train.sharding=sharded", "train.compile=true"),
    }
    for name, options in ((n, variants[n]) for n in variants if n in runs.variants):
        rows = runs.run(name, gpus, "cut", *SMALL, *steps, *options)
        found |= {f"{name}: {key}": value for key, value in differences(one, rows)}
    if "full-replicated" not in runs.variants:
        return found
    again = runs.run("full-one-other-batches", 1, "cut", *SMALL, *steps, "rollout.batch_size=2")
    return found | {f"one GPU, other batches: {key}": value for key, value in differences(one, again)}


def differences(one: list[dict[str, float]], other: list[dict[str, float]]) -> Iterator[tuple[str, float]]:
    """The largest relative difference of loss, gradient norm and reward in any iteration."""
    for key in ("actor/loss", "actor/grad_norm", "reward/mean"):
        pairs = [(a[key], b[key]) for a, b in zip(one, other, strict=False) if key in a and key in b]
        if pairs:
            yield key, max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


CASES = {"lora": lora, "full": full}


def main() -> None:
    """Build the models, run the cases, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--cases", default="lora,full")
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--cut", type=int, default=6)
    parser.add_argument("--variants", default="full-sharded,full-replicated,full-offload,full-compile")
    parser.add_argument("--size", default="512")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runs = Runs(arguments.work.absolute(), device, arguments.size, arguments.iterations)
    runs.variants = arguments.variants.split(",")
    cards = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    said: dict[str, Any] = {"cards": cards, "torch": torch.__version__, "ranks": arguments.ranks, "figures": {}}
    for case in arguments.cases.split(","):
        model, layers = ("full-size", arguments.layers) if case == "lora" else ("cut", arguments.cut)
        build = ["python", str(HERE / "full_size.py"), str(runs.work / model), "--layers", str(layers)]
        if not (runs.work / model / "prompts.txt").exists():
            subprocess.run(build, check=True)
        said["figures"] |= CASES[case](runs, arguments.ranks)
        arguments.json.write_text(json.dumps({**said, "runs": runs.done}, indent=1) + "\n")
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
