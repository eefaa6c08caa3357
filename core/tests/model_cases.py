"""An architecture with the arguments of its call, as a run holds it and as plain diffusers does."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import NO_STEPS, Request, Window, all_steps
from omni_rl.model.loading import load_model
from omni_rl_testing.parts import PROMPTS, Parts, assemble
from omni_rl_testing.toy import PolicyGradient
from omni_rl_tiny import pipelines

REPRESENTATIVES = ("QwenImagePipeline", "StableDiffusion3Pipeline", "FluxPipeline", "WanPipeline", "SanaPipeline")
"""What tests of core run on: each of another kind, together all that the others do in pieces."""

GUIDED: dict[str, dict[str, Any]] = {
    **{name: pipelines.CALLS[name] for name in REPRESENTATIVES},
    "FluxPipeline": {**pipelines.CALLS["FluxPipeline"], "true_cfg_scale": 2.0, "negative_prompt": "hello"},
}


class OneWindow(PolicyGradient):
    """Every group is trained on every step but the last, so that a micro-batch is replayed as it was drawn."""

    @hookimpl
    def sde_window(self, steps: int) -> Window:
        return all_steps(steps)


def unguided(call: dict[str, Any]) -> dict[str, Any]:
    """The same size without guidance; what FLUX is told about guidance is no second pass."""
    scale = "guidance_scale" if "true_cfg_scale" not in call else "true_cfg_scale"
    return {k: v for k, v in call.items() if k != "negative_prompt"} | {scale: 1.0}


@dataclass(frozen=True)
class Step:
    """One call of the pipeline's own ``scheduler.step``."""

    sample: torch.Tensor
    timestep: torch.Tensor
    velocity: torch.Tensor


@dataclass
class Case:
    """An architecture with the arguments of its call.

    Attributes:
        call: with ``negative_prompt``, as a configuration gives it.
        guided: whether the denoiser runs twice.
    """

    architecture: str
    folder: Path
    call: dict[str, Any]
    guided: bool
    made: dict[Any, Parts] = field(default_factory=dict)

    def assembly(self, lora: bool = False) -> Parts:
        """Kept for the session: with the folder's own weights, or with adapters that were moved off zero."""
        if lora not in self.made:
            self.made[lora] = self.fresh(model={"lora": {"rank": 2, "alpha": 2} if lora else None})
            if lora:
                self.made[lora].nudge()
        return self.made[lora]

    def fresh(self, *, precision: str = "fp32", offload: bool = False, **sections: Any) -> Parts:
        """Parts of their own, for a test that changes something."""
        full = (sections.get("model") or {}).get("lora") is None
        model = load_model(self.folder, device=torch.device("cpu"), precision=precision, full=full, offload=offload)
        rollout = {"call": self.call, **sections.pop("rollout", {})}
        return assemble(model, algorithm=OneWindow(), **sections, rollout=rollout)

    @functools.cached_property
    def batch(self) -> TensorDict:
        """(6,) samples of three prompts of different length, drawn with moved adapters."""
        assembly = self.assembly(lora=True)
        return trajectory.collate(assembly.draw(assembly.requests()))

    @functools.cached_property
    def plain(self) -> DiffusionPipeline:
        """The pipeline as diffusers loads it, which omni-rl never sees."""
        pipe = DiffusionPipeline.from_pretrained(self.folder, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def own(self, start: dict[str, torch.Tensor], prompts: list[str] | None = None, **arguments: Any) -> Any:
        """What the plain pipeline returns from the initial latents ``start`` (stream ``x``)."""
        texts = {"prompt": list(PROMPTS) if prompts is None else prompts}
        if "negative_prompt" in self.call:
            texts["negative_prompt"] = [self.call["negative_prompt"]] * len(texts["prompt"])
        call = {**self.call, **texts, "latents": start["x"].clone(), "num_inference_steps": 4, **arguments}
        return self.plain(**call, return_dict=False)[0]


def still(assembly: Parts, prompts: tuple[str, ...] = PROMPTS, **changes: Any) -> list[Request]:
    """One request without noise injection for every prompt."""
    requests = {r.prompt: replace(r, window=NO_STEPS, **changes) for r in reversed(assembly.requests())}
    some = next(iter(requests.values()))
    return [requests.get(p) or replace(some, prompt=p) for p in prompts]


def own_loop(assembly: Parts, requests: list[Request]) -> tuple[dict[str, torch.Tensor], Any]:
    """(x_T, the state after core's loop)."""
    hooks, model = assembly.hooks, assembly.model
    with torch.no_grad():
        state = hooks.prepare_encode(model=model, requests=requests)
        start = {n: x.clone() for n, x in state.x.items()}
        while not state.done:
            (velocity,) = hooks.denoise_step(model=model, states=[state])
            hooks.step_scheduler(model=model, state=state, velocity=velocity)
    return start, state


class Euler(FlowMatchEulerDiscreteScheduler):
    """diffusers' own Euler steps over the table that the pipeline's own scheduler makes."""

    def __init__(self, own: SchedulerMixin) -> None:
        super().__init__()
        self.own = own

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        self.own.set_timesteps(num_inference_steps)
        self.timesteps, self.sigmas = self.own.timesteps.float(), self.own.sigmas
        self._step_index = self._begin_index = None


@contextmanager
def stepping(scheduler: SchedulerMixin) -> Iterator[list[Step]]:
    """Every step that a scheduler of this class takes, in order."""
    cls, seen = type(scheduler), []
    original = cls.step

    @functools.wraps(original)
    def step(self: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *a: Any, **k: Any) -> Any:
        seen.append(Step(sample.clone(), torch.as_tensor(timestep).clone(), model_output.clone()))
        return original(self, model_output, timestep, sample, *a, **k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "step", step)
        yield seen
