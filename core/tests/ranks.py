"""One rank of the tests on several ranks: a program that reads a job, trains, and writes what it has at the end.

Usage: ``python ranks.py FOLDER``, with the environment of torchrun. The folder has ``jobs.json``, a list of jobs, and
``<batch>.<rank>.safetensors`` for each batch that a job names. After each job, the rank writes
``<job>.<rank>.json`` and ``<job>.<rank>.safetensors``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import whole_runs
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.contracts import batches, parcels
from omni_rl.model.loading import load_model
from omni_rl.parallel.group import joined, rank, world_size
from omni_rl.parallel.layout import arranged
from omni_rl.parallel.whole import whole
from omni_rl.training import sequence
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import PolicyGradient, toy_model


class Watching(PolicyGradient):
    """Keeps the gradients of the first update, and counts the rows of every forward."""

    def __init__(self, uses_reference: bool = False) -> None:
        super().__init__(uses_reference)
        self.gradients: dict[str, torch.Tensor] = {}
        self.rows = 0

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        self.rows += len(batch) * len(steps)
        return super().compute_loss(policy, batch, steps)

    @hookimpl
    def after_update(self, policy, update) -> None:
        super().after_update(policy, update)
        if not self.gradients:
            self.gradients = {n: whole(p.grad).clone() for n, p in policy.parameters.items() if p.grad is not None}


def parts_of(job: Mapping[str, Any]) -> Parts:
    """The parts of a run that a job describes."""
    if job.get("folder"):
        model = load_model(
            Path(job["folder"]),
            device=torch.device("cpu"),
            precision=job.get("precision", "fp32"),
            full=not job.get("lora"),
            as_stored=world_size() > 1 and job["train"]["sharding"] == "sharded",
        )
    else:
        model = toy_model()
    sections = {"model": {"lora": job.get("lora")}, "train": job.get("train", {})}
    if job.get("call"):
        sections["rollout"] = {"call": job["call"]}
    algorithm, options = algorithm_of(job)
    plugin = __import__(job["plugin"]) if "plugin" in job else None
    return assemble(model, plugin=plugin, algorithm=algorithm, options=options, **sections)


def algorithm_of(job: Mapping[str, Any]) -> tuple[Any, Any]:
    """The algorithm that a job names, and its options."""
    if "algorithm" not in job:
        return Watching(job.get("reference", False)), None
    module, name = job["algorithm"].split(":")
    found = getattr(__import__(module), name)
    options = found.Config(**job.get("options", {}))
    return found(options), options


def trained(job: Mapping[str, Any], parts: Parts, rows: TensorDict) -> dict[str, Any]:
    """Train, and return figures (JSON) and tensors."""
    if job.get("load"):
        parts.backend.load_state(load_file(job["load"]), {"updates": job["updates"]})
    measured = measurements(parts, rows) if job.get("measure") else {}
    figures = [parts.backend.update(rows, iteration) for iteration in range(job.get("iterations", 1))]
    state, extra = parts.backend.state()
    sent = {}
    for form in ("merged", "adapter") if job.get("lora") else ("merged",):
        sent |= {f"sent/{form}/{n}": v.clone() for n, v in parts.backend.weights("trained", form)}
    for name in parts.backend.policy.named:
        sent |= {f"sent/{name}/{n}": v.clone() for n, v in parts.backend.weights(name, "merged")}
    watched = parts.algorithm if isinstance(parts.algorithm, Watching) else None
    gradients = {f"gradient/{n}": v for n, v in (watched.gradients if watched else {}).items()}
    said = {"figures": figures, "extra": extra, "rows": watched.rows if watched else 0}
    held = {name: whole(tensor) for name, tensor in state.items()}
    return {"said": said, "tensors": {**held, **sent, **gradients, **measured}}


def measurements(parts: Parts, rows: TensorDict) -> dict[str, torch.Tensor]:
    """Samples that are drawn again, log-probs of the rows, and the tokens that a block sees in these forwards."""
    seen: set[int] = set()

    def see(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim == 3]
        seen.add(tensors[0].shape[1])

    (denoiser,) = parts.model.denoisers.values()
    *_, last = getattr(denoiser, "blocks", None) or denoiser.transformer_blocks
    watching = last.register_forward_pre_hook(see, with_kwargs=True)
    drawn = parts.batch()
    policy = parts.backend.policy
    found = policy.map_steps(
        rows, lambda part, steps: {"all": torch.stack([e.log_prob for e in policy.evaluate(part, steps)], 1)}
    )
    watching.remove()
    tokens = torch.tensor(sorted(seen))
    return {"log_probs/all": found["all"], "tokens/seen": tokens, **{f"drawn/{n}": v for n, v in stored(drawn).items()}}


@contextlib.contextmanager
def ring_on_the_cpu() -> Iterator[None]:
    """Give diffusers' ring attention the CPU's kernel, in place of the GPU's of the same interface."""
    with (
        mock.patch.dict(sequence.RING_KERNELS, cpu=AttentionBackendName._NATIVE_FLASH),
        mock.patch.object(attention_dispatch, "_native_flash_attention_forward_op", _flash_forward),
        mock.patch.object(attention_dispatch, "_native_flash_attention_backward_op", _flash_backward),
    ):
        yield


def _flash_forward(ctx, query, key, value, *_, _save_ctx=True, **__):
    swapped = (each.transpose(1, 2).contiguous() for each in (query, key, value))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*swapped)
    if _save_ctx:
        ctx.save_for_backward(query, key, value)
    return out.transpose(1, 2).contiguous(), lse.transpose(1, 2).contiguous()


def _flash_backward(ctx, grad_out, *, query, key, value, out, lse):
    swapped = [each.transpose(1, 2).contiguous() for each in (grad_out, query, key, value, out, lse)]
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*swapped, 0.0, False)
    return tuple(each.transpose(1, 2).contiguous() for each in found)


def stored(batch: TensorDict) -> dict[str, torch.Tensor]:
    """The rows of a batch, which may have several forms, as tensors by name."""
    forms = batches.forms(batch)
    return {name: v for k, (_, rows) in enumerate(forms) for name, v in parcels.named(rows, k).items()}


def restored(tensors: Mapping[str, torch.Tensor]) -> TensorDict:
    """The inverse of :func:`stored`, rows of one form after the other."""
    parts = list(parcels.by_place(tensors, 1, dims=1).values())
    return parts[0] if len(parts) == 1 else batches.stacked([row for part in parts for row in part.unbind(0)])


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors, each with memory of its own."""
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


def outcome(job: Mapping[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """Do a job: a whole run, or updates with stored rows."""
    if "run" in job:
        return whole_runs.done(job["run"], folder / f"run-{number}")
    rows = restored(load_file(folder / f"{job['batch']}.{rank()}.safetensors"))
    shared = {"ulysses": 1, "ring": 1, **job.get("train", {}).get("sequence_parallel", {})}
    with arranged(**shared, device_type="cpu"), ring_on_the_cpu():
        return trained(job, parts_of(job), rows)


def main(folder: Path) -> None:
    """Do all jobs of a folder."""
    torch.set_num_threads(1)
    with joined(timeout_s=60):
        for number, job in enumerate(json.loads((folder / "jobs.json").read_text())):
            try:
                done = outcome(job, folder, number)
            except Exception as error:
                raise RuntimeError(f"job {number}: {job}") from error
            (folder / f"{number}.{rank()}.json").write_text(json.dumps(done["said"]))
            save(folder / f"{number}.{rank()}.safetensors", done["tensors"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
