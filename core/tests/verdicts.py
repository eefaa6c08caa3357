"""Whether the universal adapter trains an architecture: what "passes" means, asked of its tiny pipeline.

* The gate is green, and every row that a healthy run has was judged.
* With noise off, core's latents are those of the pipeline as diffusers loads it, with its own scheduler, one prompt at
  a time.
* The velocity's gradient is its slope: a part of the model that hides from autograd would show here.
* After two iterations of FlowGRPO every adapter has moved, and when everything trains, every weight that the velocity
  depends on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from model_cases import OneWindow, own_loop, still

from omni_rl import train
from omni_rl.config.resolve import resolve
from omni_rl.contracts.media import RATE
from omni_rl.data.media_files import load
from omni_rl.errors import RunError, UserError
from omni_rl.gate.rows import gap
from omni_rl.model.loading import load_model
from omni_rl.run import assembly
from omni_rl.universal.ask import latent_arguments
from omni_rl_testing.parts import Parts, assemble
from omni_rl_tiny import pipelines
from omni_rl_tiny.pipelines import pictures

PROMPTS = ("a sign that says 7", "hello world")
JUDGED = {
    "schedule", "text", "own loop", "timesteps", "replay", "clip range", "transition", "sensitivity", "encoders",
    "mode", "gradient", "weights", "rewards",
}  # fmt: skip
"""The gate's rows that have to be ok."""

LATENTS = 5e-6
"""Of noise-off latents, relative to the largest: prompts share a batch here and are alone there."""

SLOPE = 0.05
"""Of a directional derivative against a central difference in fp32."""


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Attributes:
        verdict: ``pass`` or ``fails``.
        reason: why it fails; empty otherwise.
        media: kinds that it makes, as far as it came.
    """

    verdict: str
    reason: str = ""
    media: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "media": list(self.media)}


class _RefusalError(Exception):
    """A requirement does not hold."""


@dataclass(frozen=True)
class Subject:
    """A tiny pipeline in a folder.

    Attributes:
        call: arguments, as ``rollout.call`` has them.
        media: for each of :data:`PROMPTS` the files of every argument that takes some, as ``Request.media`` has them;
            none where there is no such argument.
    """

    folder: Path
    call: Mapping[str, Any]
    media: Sequence[Mapping[str, str | list[str]]] = ()


def architectures() -> list[str]:
    """Those that the installed diffusers has."""
    return [n for n in pipelines.BUILDERS if hasattr(diffusers, n)]


def subject(architecture: str, folder: Path) -> Subject:
    """Builds the pipeline, with pictures beside it where it takes them."""
    pipelines.build(architecture, folder)
    media = pictures.media(architecture, folder, len(PROMPTS)) if architecture in pipelines.FROM_PICTURES else ()
    return Subject(folder, pipelines.CALLS[architecture], media)


def judge(tiny: Subject, work: Path) -> Verdict:
    """The verdict on a tiny pipeline; ``work`` is an empty folder for the runs."""
    media: tuple[str, ...] = ()
    with pytest.MonkeyPatch.context() as patch:
        pictures.small_pictures(patch)
        try:
            media = _own_loops_agree(tiny)
            _gradients_are_slopes(tiny)
            _everything_moves(tiny, work)
        except (_RefusalError, RunError, UserError) as refused:
            return Verdict("fails", _sentence(refused), media)
    return Verdict("pass", media=media)


def _sentence(error: Exception) -> str:
    """The first thing that is wrong, without what to do about it."""
    what = error.what if isinstance(error, UserError) else str(error)
    lines = [line.strip() for line in what.splitlines() if line.strip()]
    return lines[1] if "checks fail" in lines[0] and len(lines) > 1 else lines[0]


def _require(good: bool, what: str) -> None:
    if not good:
        raise _RefusalError(what)


# ------------------------------------------------------------------------------------------------ the pipeline's loop


class EulerOver:
    """Euler steps over the table of another scheduler, which stays in charge of everything else."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.set_timesteps = own.set_timesteps
        self.index = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["own"], name)

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        dt = self.own.sigmas[self.index + 1] - self.own.sigmas[self.index]
        self.index += 1
        return (sample + dt * model_output,)


def _assembled(tiny: Subject, prompts: Sequence[str] = PROMPTS) -> Parts:
    model = load_model(tiny.folder, device=torch.device("cpu"), precision="fp32", full=True)
    media = list(tiny.media[: len(prompts)]) or None
    rollout = {"call": dict(tiny.call)}
    return assemble(model, algorithm=OneWindow(), prompts=prompts, media=media, model={"lora": None}, rollout=rollout)


def _own_loops_agree(tiny: Subject) -> tuple[str, ...]:
    assembly = _assembled(tiny)
    requests = still(assembly, PROMPTS)
    start, state = own_loop(assembly, requests)
    samples = assembly.hooks.post_decode(model=assembly.model, state=state)
    for row, request in enumerate(requests):
        one = {name: x[row : row + 1] for name, x in start.items()}
        conditioning = {name: value[row : row + 1] for name, value in state.conditioning.items()}
        given = latent_arguments(assembly.model, one, conditioning, request.call)
        final = _by_diffusers(tiny, {"prompt": request.prompt, **load(request.media), **given}, len(given))
        found = max(gap(state.x[name][row : row + 1], x) for name, x in zip(start, final, strict=True))
        _require(found <= LATENTS, f"noise-off latents lie {found:.1g} from those of the pipeline's own loop")
    return tuple(sorted(kind for kind in samples[0].trajectory["media"].keys() if not kind.endswith(RATE)))


def _by_diffusers(tiny: Subject, given: Mapping[str, Any], streams: int) -> list[torch.Tensor]:
    """What the last step gave, per stream, in a plain call of the plain pipeline."""
    pipe = DiffusionPipeline.from_pretrained(tiny.folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if not isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler):
        pipe.scheduler = EulerOver(copy.deepcopy(pipe.scheduler))
    with _stepped(type(pipe.scheduler)) as outputs, torch.random.fork_rng():
        generator = torch.manual_seed(0)  # by which, or by none, some take a sample of what a picture's encoder answers
        pipe(**tiny.call, **given, num_inference_steps=4, output_type="latent", generator=generator)
    return outputs[-streams:]


@contextmanager
def _stepped(cls: type) -> Iterator[list[torch.Tensor]]:
    outputs: list[torch.Tensor] = []
    original = cls.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        outputs.append(result[0].clone())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "step", step)
        yield outputs


# ------------------------------------------------------------------------------------------------ gradients, updates


def _gradients_are_slopes(tiny: Subject) -> None:
    """Against central differences along the gradient, where it is steepest, at the first step of a sample."""
    assembly = _assembled(tiny, PROMPTS[:1])
    policy, batch = assembly.backend.policy, assembly.batch()[:1]

    def loss() -> torch.Tensor:
        inputs = assembly.hooks.prepare_model_inputs(policy=policy, batch=batch, steps=[0])
        velocity = policy.predict(**inputs)
        generator = torch.Generator().manual_seed(0)
        weighted = [(v * torch.randn(v.shape, generator=generator)).mean() for v in velocity.values()]
        return torch.stack(weighted).sum().double()

    loss().backward()
    gradients = {p: p.grad for p in assembly.model.parameters().values() if p.grad is not None}
    length = float(torch.stack([g.double().square().sum() for g in gradients.values()]).sum().sqrt())
    _require(length > 0, "the velocity has no gradient")
    off = min(abs(_slope(loss, gradients, length, h) / length - 1) for h in (1e-2, 1e-3))
    _require(off <= SLOPE, f"the velocity's gradient is not its slope: off by {off:.0%}")


def _slope(loss: Any, gradients: Mapping[Any, torch.Tensor], length: float, h: float) -> float:
    kept, values = {p: p.data for p in gradients}, []
    for sign in (1, -1):
        for parameter, gradient in gradients.items():
            parameter.data = kept[parameter] + sign * h / length * gradient
        with torch.no_grad():
            values.append(float(loss()))
    for parameter, data in kept.items():
        parameter.data = data
    return (values[0] - values[1]) / (2 * h)


def recipe(tiny: Subject, work: Path, lora: bool) -> dict[str, Any]:
    """Two iterations of FlowGRPO on the prompts, which are written into ``work``."""
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    for row, files in zip(rows, tiny.media, strict=False):
        row |= {f"files_of_{argument}": given for argument, given in files.items()}
    (work / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    media = {"media": {name: f"files_of_{name}" for name in tiny.media[0]}} if tiny.media else {}
    return {
        "model": {"path": str(tiny.folder), "plugin": "universal", "lora": {"rank": 2, "alpha": 4} if lora else None},
        "algorithm": {"name": "flow_grpo"},
        "rollout": {"steps": 3, "prompts": 2, "group_size": 3, "batch_size": 6, "call": dict(tiny.call)},
        "reward": "brightness",
        "data": {"path": str(work / "prompts.jsonl"), **media},
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3, "weight_decay": 0.0},
        "validation": {"every": 0},
        "device": "cpu",
    }


def _everything_moves(tiny: Subject, work: Path) -> None:
    for lora in (True, False):
        config = recipe(tiny, work, lora)
        fresh = assembly.assemble(resolve(config))
        before = {n: p.detach().clone() for n, p in fresh.model.parameters().items()}
        run = train(config, run_dir=work / ("lora" if lora else "full"))
        missing = JUDGED - {row.name for row in run.gate if row.verdict == "ok"}
        _require(not missing, f"the gate does not judge: {', '.join(sorted(missing))}")
        after = run.model.parameters()
        still_there = [n for n, value in before.items() if torch.equal(value, after[n])]
        idle = [n for n in still_there if not _matters(fresh, n)]
        stuck = sorted(set(still_there) - set(idle))
        what = f"{len(stuck)} of {len(before)} trained tensors do not move, e.g. {stuck[:1]}"
        _require(not stuck and len(idle) < len(before) / 4, what)
        fresh.built.close()


def _matters(run: assembly.Parts, name: str) -> bool:
    """Whether the velocity of the first sample at either end of the schedule depends on a weight, or on the one that an
    adapter stands beside.
    """
    component, _, path = name.partition(".")
    if ".lora_" in path:
        path = path.partition(".lora_")[0] + ".base_layer.weight"
    parameter = run.model.denoisers[component].get_parameter(path)
    kept, before = parameter.data, _velocities(run)
    parameter.data = kept + 0.1 * (kept.abs().mean() + 1)
    after = _velocities(run)
    parameter.data = kept
    return any(gap(a, b) > 1e-6 for a, b in zip(after, before, strict=True))


def _velocities(run: assembly.Parts) -> list[torch.Tensor]:
    from omni_rl.sampling.plan_requests import rollout_requests

    (request, *_) = rollout_requests(run.config, run.hooks, run.prompts, 0, 0)
    with torch.no_grad():
        state = run.hooks.prepare_encode(model=run.model, requests=[request])
        ends = state.table.timesteps[[0, -1]]
        answers = [
            run.hooks.predict(
                model=run.model, x=state.x, t=t[None], conditioning=state.conditioning, call=request.call, step=None
            )
            for t in ends
        ]
    return [v for answer in answers for v in answer.values()]
