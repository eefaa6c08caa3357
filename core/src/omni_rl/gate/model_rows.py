"""Rows that hold core's loop and a model plugin to the upstream pipeline, the test oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from omni_rl.errors import UserError
from omni_rl.gate.probe import Probe, noise_off
from omni_rl.gate.rows import Row, judge
from omni_rl.model import capture, universal
from omni_rl.model.batching import fastest_mode
from omni_rl.types import SigmaTable, Streams, Tensors

if TYPE_CHECKING:
    from omni_rl.run import Run

FP32_TOLERANCE, BF16_TOLERANCE = 2e-6, 3e-2
"""Of noise-off latents against the pipeline's own loop, relative to the largest latent."""


class Oracle:
    """The upstream pipeline's own answers for the gate's first two prompts, asked through the universal adapter."""

    def __init__(self, run: Run, probe: Probe) -> None:
        self.run = run
        self.requests = [next(r for r in probe.requests if r.uid == u) for u in sorted({r.uid for r in probe.requests})]
        self.call = self.requests[0].call
        negatives = [r.negative_prompt for r in self.requests]
        with torch.no_grad():
            found = universal.encode_prompt(
                model=run.model,
                prompts=[r.prompt for r in self.requests],
                negative_prompts=[n or "" for n in negatives] if negatives[0] is not None else None,
                call=self.call,
            )
            self.conditioning = {n: v.float() if v.is_floating_point() else v for n, v in found.items()}
            self.shapes = universal.prepare_latents(model=run.model, conditioning=self.conditioning, call=self.call)

    def table(self) -> SigmaTable:
        """The pipeline's schedule, from its own call."""
        steps = self.requests[0].steps
        with torch.no_grad():
            table = universal.set_timesteps(
                model=self.run.model, steps=steps, shapes=self.shapes, conditioning=self.conditioning, call=self.call
            )
        assert isinstance(table, SigmaTable)
        return table

    def final(self, start: Streams) -> Streams:
        """Final latents of the pipeline's own loop from ``start``, by an Euler scheduler with its own table."""
        model = self.run.model
        euler = capture.Euler(model.pipe.scheduler, self.table(), list(start.values()))
        arguments = universal.call_arguments(model, self.conditioning, self.call)
        given = universal.latent_arguments(model, start, self.conditioning, self.call)
        with torch.no_grad(), model.compute():
            capture.ask(model.pipe, euler, **given, **{**arguments, "num_inference_steps": self.requests[0].steps})
        return dict(zip(start, euler.latents, strict=True))


def model_rows(run: Run, probe: Probe) -> Iterator[Row]:
    """Schedule, text, the pipeline's own loop, guidance, and per-row timesteps."""
    try:
        oracle = Oracle(run, probe)
    except UserError as error:
        yield Row("own pipeline", "info", f"not comparable: {error.what}")
        return
    start, final, conditioning = noise_off(run, oracle.requests)
    yield _schedule(probe, oracle)
    yield _text(conditioning, oracle.conditioning)
    yield _own_loop(run, oracle, start, final)
    yield _guidance(run, oracle, start, conditioning)
    yield _per_row_timesteps(run, oracle, start, conditioning)


def _schedule(probe: Probe, oracle: Oracle) -> Row:
    own = oracle.table()
    size = probe.batch["timesteps"].shape[1]
    start = probe.requests[0].window.start
    used, wanted = probe.batch["sigmas"][0], own.sigmas[start : start + size + 1]
    same = torch.equal(used, wanted) and torch.equal(probe.batch["timesteps"][0], own.timesteps[start : start + size])
    falls = bool((own.sigmas.diff() < 0).all()) and float(own.sigmas[-1]) == 0 and float(own.sigmas[0]) <= 1.001
    steps = len(own.timesteps)
    sigmas = f"{float(own.sigmas[0]):.4f} to 0 in {steps} steps"
    if not falls:
        return judge("schedule", False, f"sigmas do not fall from 1 to 0: {own.sigmas.tolist()}")
    if steps != oracle.requests[0].steps:
        return judge("schedule", False, f"the pipeline's scheduler makes {steps} steps of {oracle.requests[0].steps}")
    gap = float((used - wanted).abs().max()) if len(used) else 0.0
    return judge(
        "schedule",
        same,
        f"{sigmas}, equal to the pipeline's" if same else f"sigmas differ from the pipeline's by {gap:.2g}",
    )


def _text(ours: Tensors, own: Tensors) -> Row:
    shared = sorted(ours.keys() & own.keys())
    missing = sorted(own.keys() - ours.keys())
    if missing:
        return judge("text", False, f"the pipeline conditions on {', '.join(missing)}, this run does not")
    gaps = {n: _gap(ours[n], own[n]) for n in shared}
    worst = max(gaps, key=lambda n: gaps[n])
    good = gaps[worst] == 0
    return judge(
        "text",
        good,
        "embeddings equal the pipeline's" if good else f"{worst} differs from the pipeline's by {gaps[worst]:.2g}",
    )


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value; infinite when the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-30))


def _own_loop(run: Run, oracle: Oracle, start: Streams, final: Streams) -> Row:
    own = oracle.final(start)
    gap = max(_gap(final[n], own[n]) for n in final)
    tolerance = FP32_TOLERANCE if run.model.dtype == torch.float32 else BF16_TOLERANCE
    detail = f"noise-off latents within {gap:.2g} of the pipeline's own loop"
    return judge("own loop", gap <= tolerance, detail + ("" if gap <= tolerance else f" (at most {tolerance:.0e})"))


def _guidance(run: Run, oracle: Oracle, start: Streams, conditioning: Tensors) -> Row:
    rows = denoiser_rows(run, start, conditioning, oracle.call) / len(oracle.requests)
    asked = [k for k in ("true_cfg_scale", "guidance_scale") if float(oracle.call.get(k) or 0) > 1]
    negative = oracle.requests[0].negative_prompt is not None
    if rows == 1 and (negative or "true_cfg_scale" in asked):
        what = "a negative prompt is given" if negative else "true_cfg_scale is above 1"
        return judge("guidance", False, f"{what}, but the denoiser sees each sample once: guidance is off")
    return Row(
        "guidance", "info", f"{'off' if rows == 1 else 'on'}: the denoiser sees each sample {rows:g} times a step"
    )


def denoiser_rows(run: Run, x: Streams, conditioning: Tensors, call: Any) -> int:
    """Rows that the denoiser computes for one velocity of x (B, ...)."""
    seen: list[int] = []

    def count(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))

    handles = [d.register_forward_pre_hook(count, with_kwargs=True) for d in run.model.denoisers.values()]
    t = torch.full((len(next(iter(x.values()))),), 500.0, device=run.model.device)
    with torch.no_grad(), run.model.compute():
        run.hooks.predict(model=run.model, x=x, t=t, conditioning=conditioning, call=call)
    for handle in handles:
        handle.remove()
    return sum(seen)


def _per_row_timesteps(run: Run, oracle: Oracle, start: Streams, conditioning: Tensors) -> Row:
    """Measure what batching the pipeline allows for differing timesteps, and keep it for the run."""
    rows = [0, 0, len(oracle.requests) - 1]  # two rows of one timestep, one of another
    x = {n: v[rows] for n, v in start.items()}
    taken = {n: v[rows] for n, v in conditioning.items()}
    t = torch.tensor([300.0, 300.0, 700.0], device=run.model.device)
    tolerance = 1e-4 if run.model.dtype == torch.float32 else 5e-2
    single = universal.single_step(run.model, oracle.call)
    with torch.no_grad(), run.model.compute():
        mode = fastest_mode(single, x, t, _only(taken, oracle.conditioning), tolerance)
        run.model.memo["batching"] = mode
        together = run.hooks.predict(model=run.model, x=x, t=t, conditioning=taken, call=oracle.call)
        gap = 0.0
        for i in range(len(rows)):
            row = [i]
            alone = run.hooks.predict(
                model=run.model,
                x={n: v[row] for n, v in x.items()},
                t=t[row],
                conditioning={n: v[row] for n, v in taken.items()},
                call=oracle.call,
            )
            gap = max(gap, *(_gap(together[n][row], alone[n]) for n in alone))
    return judge(
        "timesteps", gap <= tolerance, f"per-row timesteps within {gap:.2g} of single calls (universal: {mode})"
    )


def _only(conditioning: Tensors, like: Tensors) -> Tensors:
    return {name: conditioning[name] for name in like}
