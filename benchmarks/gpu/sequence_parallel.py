"""Two ranks that share each sample against one rank, on blocks of Wan 14B and a video of 81 frames, 480 x 832.

    python -m torch.distributed.run --nproc-per-node 2 benchmarks/gpu/sequence_parallel.py --json OUT [--layers 4]

The transformer has random weights, LoRA adapters as omni-rl adds them, and ``train.sequence_parallel`` as omni-rl
applies it. Every mode builds the same model and computes the log-prob of the same stored step, and the gradient of the
policy gradient's loss:

* ``one``: each rank alone, without sequence parallelism; ``other_kernel``: the same with another attention kernel of
  PyTorch, which shows how much rounding alone changes;
* ``ulysses``, ``ulysses_flash`` (diffusers' flash attention, which keeps its sums for the backward pass), ``ring``;
* ``*_checkpointing``: with gradient checkpointing;
* ``exact_*``: two blocks in fp32 with few tokens, where the differences have to be below 1e-5; of ``exact_sharded``,
  all weights train and are sharded over the ranks (FSDP).

A mode that fails is reported with its error, and the others go on. With ``--tiny``, it runs on the CPU in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from torch.nn.attention import SDPBackend, sdpa_kernel

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Lora, Train
from omni_rl.model.adapters import make_trainable
from omni_rl.parallel.group import joined, local_rank, rank, world_size
from omni_rl.parallel.layout import arranged
from omni_rl.parallel.whole import whole
from omni_rl.schedulers.transition import transition
from omni_rl.training import reduction
from omni_rl.training.sequence import divide_sequences
from omni_rl.training.sharding import shard

WAN_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "text_dim": 4096}
TINY = {"num_attention_heads": 4, "attention_head_dim": 12, "ffn_dim": 96, "text_dim": 32, "freq_dim": 32}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Size:
    """Blocks and inputs: latent frames, rows and columns; tokens of text."""

    sizes: dict[str, int]
    layers: int
    latents: tuple[int, int, int]
    text: int
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        """Tokens of the sequence that is shared."""
        frames, rows, columns = self.latents
        return frames * (rows // 2) * (columns // 2)


@dataclass(frozen=True)
class Mode:
    """One way to compute."""

    size: Size
    ulysses: int = 1
    ring: int = 1
    kernel: str | None = None
    checkpointing: bool = False
    full: bool = False
    sharded: bool = False
    other: bool = False
    repeats: int = 0


@dataclass
class Done:
    """What a mode computed, and what it cost."""

    log_prob: torch.Tensor
    gradients: dict[str, torch.Tensor]
    costs: dict[str, Any]


def build(mode: Mode, device: torch.device) -> LoadedModel:
    """The same random weights in every mode and on every rank; adapters are moved off zero."""
    torch.manual_seed(0)
    torch.set_default_dtype(mode.size.dtype)
    try:
        with device:
            denoiser = WanTransformer3DModel(num_layers=mode.size.layers, **mode.size.sizes)
    finally:
        torch.set_default_dtype(torch.float32)
    denoiser.requires_grad_(False)
    pipe: Any = SimpleNamespace(components={"transformer": denoiser})
    model = LoadedModel(pipe, "WanPipeline", Path(), device, mode.size.dtype)
    make_trainable(model, None if mode.full else Lora(rank=16, targets=TARGETS), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.parameters().items():
        if "lora_B" in name:
            parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    if mode.checkpointing:
        denoiser.enable_gradient_checkpointing()
    shared = {"ulysses": mode.ulysses, "ring": mode.ring}
    divide_sequences(model, Train(sequence_parallel=shared))
    if mode.sharded:
        shard(model)
    return model


def inputs(size: Size, device: torch.device) -> dict[str, torch.Tensor]:
    """Latents before and after a stored step, and a text; equal on all ranks."""
    generator = torch.Generator().manual_seed(2)
    shape = (1, 16, *size.latents)
    x = torch.randn(shape, generator=generator)
    following = x + 0.1 * torch.randn(shape, generator=generator)
    text = torch.randn(1, size.text, size.sizes["text_dim"], generator=generator)
    return {"x": x.to(device), "next": following.to(device), "text": text.to(device, size.dtype)}


def log_prob(model: LoadedModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """(1,) fp32 log-prob of the stored step."""
    (denoiser,) = model.denoisers.values()
    time_step = torch.tensor([800.0], device=model.device)
    velocity = denoiser(given["x"].to(model.dtype), time_step, given["text"], return_dict=False)[0].float()
    sigma, following = (torch.tensor([value], device=model.device) for value in (0.8, 0.7))
    step = transition(given["x"], velocity, sigma, following, 0.7, "sde")
    found: torch.Tensor = (step.log_prob_sum(given["next"], None)[0] / velocity.numel()).float()
    return found


def step(model: LoadedModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Forward, backward, and the sum of gradients over the ranks."""
    found = log_prob(model, given)
    (-(found - found.detach()).exp().sum()).backward()
    return found.detach()


def run(mode: Mode, device: torch.device, shared: bool) -> Done:
    """Compute in this mode; ``shared``: gradients are summed over the ranks."""
    with contextlib.ExitStack() as opened:
        if mode.kernel is not None:
            opened.enter_context(attention_backend(mode.kernel))
        if mode.other:
            kernel = SDPBackend.EFFICIENT_ATTENTION if device.type == "cuda" else SDPBackend.MATH
            opened.enter_context(sdpa_kernel(kernel))
        opened.enter_context(arranged(mode.ulysses, mode.ring, device.type))
        model, given = build(mode, device), inputs(mode.size, device)
        parameters = model.parameters()
        costs: dict[str, Any] = {}
        if mode.repeats:
            if not mode.checkpointing:  # it hides what it keeps
                with saved_bytes(parameters) as saved:
                    step(model, given)
                costs["saved_gib"] = saved[0] / 2**30
            costs |= timed(model, given, mode.repeats)
        for parameter in parameters.values():
            parameter.grad = None
        before = memory(device)
        found = step(model, given)
        if before is not None:
            costs["peak_gib"] = (torch.cuda.max_memory_allocated(device) - before) / 2**30
            costs["weights_gib"] = before / 2**30
        if shared:
            reduction.sum_over_ranks(list(parameters.values()))
        gradients = {n: whole(p.grad).float().cpu() for n, p in parameters.items() if p.grad is not None}
        return Done(found.cpu(), gradients, costs)


def memory(device: torch.device) -> int | None:
    """Bytes that are allocated now, from which the peak is counted; None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


@contextlib.contextmanager
def saved_bytes(parameters: dict[str, torch.nn.Parameter]) -> Iterator[list[int]]:
    """Counts the bytes of activations that autograd keeps for the backward pass, each memory once."""
    weights = {p.untyped_storage().data_ptr() for p in parameters.values() if not p.is_meta}
    seen: set[int] = set()
    total = [0]

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if not isinstance(value, torch.nn.Parameter) and storage.data_ptr() not in weights | seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        yield total


def timed(model: LoadedModel, given: dict[str, torch.Tensor], repeats: int) -> dict[str, float]:
    """Medians in milliseconds of forward and backward together, and of a forward without gradients."""

    def forward() -> None:
        with torch.no_grad():
            log_prob(model, given)

    return {
        "step_ms": median_ms(lambda: step(model, given), repeats, model.device),
        "forward_ms": median_ms(forward, repeats, model.device),
    }


def median_ms(work: Any, repeats: int, device: torch.device) -> float:
    """The median of some repetitions after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        synchronised(device)
        started = time.perf_counter()
        work()
        synchronised(device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[1:])


def synchronised(device: torch.device) -> None:
    """Wait for the GPU and for the other rank."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


def compared(found: Done, expected: Done) -> dict[str, float]:
    """Differences: of the log-prob, and of the gradient relative to its norm, at most and altogether."""
    wanted = torch.cat([expected.gradients[n].flatten().double() for n in sorted(expected.gradients)])
    seen = torch.cat([found.gradients[n].flatten().double() for n in sorted(found.gradients)])
    return {
        "log_prob": float((found.log_prob - expected.log_prob).abs().max()),
        "gradient_max": float((seen - wanted).abs().max() / wanted.norm()),
        "gradient_norm": float((seen - wanted).norm() / wanted.norm()),
    }


def modes(tiny: bool, layers: int, repeats: int) -> dict[str, tuple[Mode, str | None]]:
    """The modes by name, and the one that each is compared with."""
    parts = world_size()
    few = Size(TINY if tiny else WAN_14B, 2, (3, 4, 8) if tiny else (3, 16, 32), 8 if tiny else 512, torch.float32)
    wan = replace(few, layers=2 if tiny else layers, latents=(5, 8, 8) if tiny else (21, 60, 104))
    large = Mode(replace(wan, dtype=torch.bfloat16), repeats=repeats)
    checked = replace(large, checkpointing=True)
    exact = Mode(few)
    return {
        "exact_one": (exact, None),
        "exact_ulysses": (replace(exact, ulysses=parts), "exact_one"),
        "exact_all_weights_one": (replace(exact, full=True), None),
        "exact_sharded": (replace(exact, ulysses=parts, full=True, sharded=True), "exact_all_weights_one"),
        "one": (large, None),
        "other_kernel": (replace(large, other=True, repeats=0), "one"),
        "ulysses": (replace(large, ulysses=parts), "one"),
        "ulysses_flash": (replace(large, ulysses=parts, kernel="_native_flash"), "one"),
        "ring": (replace(large, ring=parts), "one"),
        "one_checkpointing": (checked, None),
        "ulysses_checkpointing": (replace(checked, ulysses=parts), "one_checkpointing"),
    }


def main() -> None:
    """Run all modes and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of modes; default: all")
    asked = parser.parse_args()
    device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(1 if device.type == "cpu" else 8)
    with joined(timeout_s=300):
        figures = measured(asked, device)
        if rank() == 0:
            text = json.dumps(figures, indent=2)
            print(text)
            if asked.json:
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                asked.json.write_text(text + "\n")


def measured(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The figures of all modes, of rank 0."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    chosen = modes(asked.tiny, asked.layers, asked.repeats)
    figures: dict[str, Any] = {"device": gpu, "ranks": world_size(), "torch": torch.__version__}
    figures["tokens"], figures["layers"] = chosen["one"][0].size.tokens, chosen["one"][0].size.layers
    done: dict[str, Done] = {}
    for name, (mode, base) in chosen.items():
        if asked.only and name not in asked.only:
            continue
        try:
            done[name] = one_mode(mode, device)
            figures[name] = done[name].costs
            if base in done:
                figures[name]["difference"] = compared(done[name], done[base])
                figures[name] |= ratios(done[name].costs, done[base].costs)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()
            figures[name] = {"error": f"{type(error).__name__}: {error}"[:600], "traceback": lines[-8:]}
        if rank() == 0:
            print(name, json.dumps(figures[name]), flush=True)
        release(device)
    return figures


def one_mode(mode: Mode, device: torch.device) -> Done:
    """A mode, after all ranks have reached it. Ranks that compute alone do not sum their gradients."""
    dist.barrier()
    return run(mode, device, shared=mode.ulysses * mode.ring > 1)


def ratios(costs: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """Each cost in units of the one rank's."""
    kinds = ("peak_gib", "saved_gib", "step_ms", "forward_ms")
    return {f"{kind}_ratio": costs[kind] / base[kind] for kind in kinds if kind in costs and kind in base}


def release(device: torch.device) -> None:
    """Free what the last mode held."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
