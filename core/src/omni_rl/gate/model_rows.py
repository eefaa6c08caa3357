"""Checks of core's denoising loop and of the model plugin against the diffusers pipeline itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from omni_rl.contracts.types import DenoiseState, SigmaTable, Streams, Tensors, lossless
from omni_rl.contracts.verdicts import Row
from omni_rl.data.media_files import load
from omni_rl.errors import UserError
from omni_rl.gate.probe import Probe, own_loop
from omni_rl.gate.rows import gap, judge
from omni_rl.gate.subject import Sampler, Subject
from omni_rl.universal import capture, encoder_outputs, scheduler_stand_ins
from omni_rl.universal import hooks as universal
from omni_rl.universal.ask import call_arguments, latent_arguments
from omni_rl.universal.batch_probes import known_mode, takes_one_row
from omni_rl.universal.batching import in_groups, take
from omni_rl.universal.capture import samples_of
from omni_rl.universal.embedding_rows import mask_of, one_by_one
from omni_rl.universal.prompt_outputs import as_taken, side_texts, text_arguments

LOOP_TOLERANCE = {torch.float32: (2e-6, 1e-3), torch.bfloat16: (1e-2, 5e-2)}
"""Minimum and maximum tolerance of the final latents against the pipeline's own loop, both without SDE noise, relative
to the largest latent. Between the two, the tolerance is ten times the floor.
"""

TEXT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Tolerance of embeddings, relative to the largest; a wrong token changes them much more."""

STEP_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Tolerance of velocities of rows at different timesteps against single calls, relative to the largest."""


class Oracle:
    """The diffusers pipeline's own results for the gate's prompts: conditioning, schedule, shapes and final latents.

    Attributes:
        changed: whether its loop has changed latents between two steps, as far as it was run.
    """

    def __init__(self, subject: Sampler, probe: Probe) -> None:
        self.model, self.changed = subject.model, False
        media = load(probe.prompts[0].media)
        self.requests = probe.prompts[:1] if media else probe.prompts  # a pipeline takes the media of one prompt only
        self.call = {**self.requests[0].call, **media}
        self.prompts = [r.prompt for r in self.requests]
        negatives = [r.negative_prompt for r in self.requests]
        self.negatives = None if negatives[0] is None else [n or "" for n in negatives]
        with torch.no_grad():
            encoded = universal.encode_prompt(
                model=subject.model, prompts=self.prompts, negative_prompts=self.negatives, call=self.call
            )
            self.conditioning: Tensors = {n: lossless(v) for n, v in encoded.items()}
            call = self.requests[0].call
            media_conditioning = universal.prepare_condition(model=subject.model, requests=self.requests)
            self.all_conditioning = self.conditioning | media_conditioning
            self.shapes = universal.prepare_latents(model=subject.model, conditioning=self.all_conditioning, call=call)
            tables = universal.set_timesteps(
                model=subject.model,
                steps=self.requests[0].steps,
                shapes=self.shapes,
                conditioning=self.all_conditioning,
                call=call,
            )
            self.table: SigmaTable = next(iter(tables.values()))

    def beside(self, start: Streams, state: DenoiseState) -> Streams:
        """:meth:`final` with the masked elements of ``state``: the pipeline sets them after its last step."""
        own, rows = self.final(start), len(self.requests)
        for name, mask in state.masks.items():
            own[name] = torch.where(mask[:rows], own[name], state.x[name][:rows])
        return own

    def final(self, start: Streams) -> Streams:
        """Final latents (B, ...) of the pipeline's own loop from x_T ``start``, with an Euler scheduler.

        The pipeline gets text, not embeddings, so an error in passing its embeddings back shows here.
        """
        together = torch.arange(len(self.prompts))
        alone = one_by_one(self.conditioning) or takes_one_row(self.model, self.call)
        groups = together.split(1) if alone else [together]
        return in_groups(groups, lambda rows: self.final_of(take(start, rows), rows))

    def final_of(self, start: Streams, rows: torch.Tensor) -> Streams:
        """The same for the prompts with the indices ``rows``, in one call."""
        euler = scheduler_stand_ins.Euler(self.model.pipe.scheduler, self.table, list(start.values()))
        self.run(euler, start, rows)
        self.changed |= euler.changed
        return dict(zip(start, euler.latents, strict=True))

    def run(self, scheduler: Any, start: Streams, rows: torch.Tensor) -> None:
        """Run the pipeline with ``scheduler`` from x_T ``start`` (B, ...), for the prompts number ``rows``."""
        model = self.model
        prompts = [self.prompts[i] for i in rows]
        negatives = None if self.negatives is None else [self.negatives[i] for i in rows]
        arguments = {
            **call_arguments(model, {}, self.call),
            **latent_arguments(model, start, self.all_conditioning, self.requests[0].call),
            **side_texts(self.call, len(prompts)),
            **as_taken(model, text_arguments(prompts, negatives)),
            "num_inference_steps": self.requests[0].steps,
        }
        masters = capture.embeddings_as(model.pipe, model.input_dtype) if model.autocast else contextlib.nullcontext()
        noise = encoder_outputs.sampling_as_replayed(model)
        with torch.no_grad(), model.compute(), model.encoders_on_device(), masters, noise:
            capture.run_call(model.pipe, scheduler, **arguments)


def model_rows(subject: Sampler, probe: Probe) -> Iterator[Row]:
    """Rows about the schedule, the text, the pipeline's own loop, guidance, and timesteps that differ per row."""
    start, state = own_loop(subject, probe.prompts, noise=False)
    try:
        oracle = Oracle(subject, probe)
    except UserError as error:
        yield Row("own pipeline", "info", f"not comparable: {error.what}")
    else:
        yield _schedule(probe, state.table, oracle)
        ours = {n: v[: len(oracle.requests)] for n, v in state.conditioning.items()}
        yield _text(subject, ours, oracle.conditioning)
        yield own_loop_row(subject, oracle, start, state)
        if scheduler_stand_ins.own_solver(subject.model.pipe.scheduler):
            yield solver_row(oracle, take(start, torch.tensor([0])))
    yield _guidance(subject, probe, start, state.conditioning)
    yield _per_row_timesteps(subject, probe, start, state.conditioning)


def solver_row(oracle: Oracle, start: Streams) -> Row:
    """How far the samples of the pipeline's own solver are from those of Euler steps, which core takes in its place.

    A solver that draws noise fails: with it, a trained model is used in another way than it was trained.
    """
    name, first = type(oracle.model.pipe.scheduler).__name__, torch.tensor([0])
    if len(start) > 1:
        return Row("solver", "info", f"Euler steps replace {name}; not measured for several streams")
    own = [scheduler_stand_ins.Own(oracle.model.pipe.scheduler) for _ in range(2)]
    try:
        for number, scheduler in enumerate(own):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                oracle.run(scheduler, start, first)
    except UserError as error:
        return Row("solver", "info", f"Euler steps replace {name}; not measured: {error.what}")
    ((euler,), drawn, again) = oracle.final_of(start, first).values(), own[0].latents[0], own[1].latents[0]
    what = f"Euler steps replace {name}; final latents differ from its own by {gap(euler, drawn):.2g}"
    if torch.equal(drawn, again):
        return Row("solver", "info", what)
    noise = f"{name} draws noise of its own: two runs differ by {gap(drawn, again):.2g}"
    return judge("solver", False, f"{what}. {noise}")


def _schedule(probe: Probe, used: SigmaTable, oracle: Oracle) -> Row:
    own, steps = oracle.table, len(oracle.table.timesteps)
    if steps != oracle.requests[0].steps:
        what = f"rollout.steps is {oracle.requests[0].steps}, but the pipeline's scheduler makes {steps} steps"
        return judge("schedule", False, what)
    if used.sigmas.shape != own.sigmas.shape:
        what = f"set_timesteps gives {len(used.timesteps)} steps, the pipeline's scheduler {steps}"
        return judge("schedule", False, what)
    if not (torch.equal(used.sigmas, own.sigmas) and torch.equal(used.timesteps, own.timesteps)):
        by = ((used.sigmas - own.sigmas).abs().max(), (used.timesteps - own.timesteps).abs().max())
        return judge("schedule", False, "sigmas differ from the pipeline's by {:.2g}, timesteps by {:.2g}".format(*by))
    stored, sigmas = probe.batch["timesteps"], probe.batch["sigmas"]  # (N, T), (N, T + 1)
    window = torch.tensor([r.window.start for r in probe.requests])[:, None] + torch.arange(sigmas.shape[1])
    if not (torch.equal(stored, own.timesteps[window[:, :-1]]) and torch.equal(sigmas, own.sigmas[window])):
        return judge("schedule", False, "the samples' stored sigmas or timesteps are not those of their window")
    falls = bool((own.sigmas.diff() < 0).all()) and float(own.sigmas[-1]) == 0
    return judge(
        "schedule",
        falls,
        f"sigmas from {float(own.sigmas[0]):.4f} to 0 in {steps} steps, equal to the pipeline's"
        if falls
        else f"sigmas do not decrease to 0: {own.sigmas.tolist()}",
    )


def _text(subject: Sampler, ours: Tensors, own: Tensors) -> Row:
    missing = sorted(own.keys() - ours.keys())
    if missing:
        what = f"not comparable: this run's conditioning has no {', '.join(missing)}; see the row 'own loop'"
        return Row("text", "info", what)
    gaps: dict[str, float] = {}
    for name in [n for n in own if not n.endswith("_mask")]:
        used, wanted = _tokens(ours, name), _tokens(own, name)
        if used.shape != wanted.shape:
            what = f"{name} has {len(used)} tokens, the pipeline's {len(wanted)}: the template or the tokenizer differs"
            return judge("text", False, what)
        gaps[name] = gap(used, wanted)
    worst = max(gaps, key=lambda n: gaps[n])
    good = gaps[worst] <= TEXT_TOLERANCE[subject.model.dtype]
    same = "embeddings equal the pipeline's" + (f" to {gaps[worst]:.2g}" if gaps[worst] else "")
    return judge("text", good, same if good else f"{worst} differs from the pipeline's by {gaps[worst]:.2g}")


def _tokens(conditioning: Tensors, name: str) -> torch.Tensor:
    """The embeddings (tokens, D) without padding if there is a mask, otherwise all of them."""
    value = conditioning[name]
    named = (conditioning.get(m) for m in (f"{name}_mask", name.replace("_embeds", "_attention_mask")))
    masks = (mask_of(name, conditioning), *named)
    mask = next((m for m in masks if m is not None and m is not value and m.shape == value.shape[:2]), None)
    return value.flatten(0, 1) if mask is None and value.ndim > 2 else value if mask is None else value[mask.bool()]


def own_loop_row(subject: Sampler, oracle: Oracle, start: Streams, state: DenoiseState) -> Row:
    """Compare the final latents of core's loop without SDE noise (``state``) with those of the pipeline's own loop.

    Both begin with x_T ``start`` (B, ...).
    """
    shapes = {n: tuple(x.shape[1:]) for n, x in start.items()}
    if shapes != {n: tuple(s) for n, s in oracle.shapes.items()}:
        what = f"not comparable: this run's latents have shapes {shapes}, the pipeline's {oracle.shapes}"
        return Row("own loop", "info", what)
    rows = len(oracle.requests)
    final = {n: x[:rows] for n, x in state.x.items()}
    own = oracle.beside({n: x[:rows] for n, x in start.items()}, state)
    difference = max(gap(final[n], own[n]) for n in final)
    _, alone = own_loop(subject, oracle.requests[:1], noise=False)
    floor = max(gap(alone.x[n], final[n][:1]) for n in final)
    least, most = LOOP_TOLERANCE[subject.model.dtype]
    tolerance = min(max(least, 10 * floor), most)
    detail = f"without SDE noise, latents differ from the pipeline's own loop by {difference:.2g}"
    good = difference <= tolerance
    between = "; the pipeline changes latents between its steps, and core's loop does not" if oracle.changed else ""
    return judge("own loop", good, detail + ("" if good else f" (at most {tolerance:.0e} is allowed){between}"))


def _guidance(subject: Sampler, probe: Probe, start: Streams, conditioning: Tensors) -> Row:
    first = probe.requests[0]
    rows = denoiser_rows(subject, start, conditioning, first.call) / len(probe.prompts)
    scale = float(first.call.get("true_cfg_scale") or 0)
    suggested = isinstance(subject, Subject) and "negative_prompt" in subject.suggested  # no user wrote it
    negative = first.negative_prompt is not None and not suggested
    if rows == 1 and (negative or scale > 1):
        cause = "a negative prompt is given" if negative else f"true_cfg_scale is {scale:g}"
        hint = "set the guidance scale above 1, or negative_prompt to null," if negative else "add negative_prompt"
        what = f"{cause}, but the denoiser computes each sample once per step: guidance is off ({hint} in rollout.call)"
        return judge("guidance", False, what)
    times = "once" if rows == 1 else f"{rows:g} times"
    return Row(
        "guidance", "info", f"{'off' if rows == 1 else 'on'}: the denoiser computes each sample {times} per step"
    )


def denoiser_rows(subject: Sampler, x: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> int:
    """The number of rows that the denoisers compute for one velocity of x (B, ...): more than B with guidance."""
    seen: list[int] = []

    def count(denoiser: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(samples_of(denoiser.forward, args, kwargs)))

    handles = [d.register_forward_pre_hook(count, with_kwargs=True) for d in subject.model.denoisers.values()]
    t = torch.full((len(next(iter(x.values()))),), 500.0, device=subject.model.device)
    with torch.no_grad(), subject.model.compute():
        subject.hooks.predict(model=subject.model, x=x, t=t, conditioning=conditioning, call=call, step=None)
    for handle in handles:
        handle.remove()
    return sum(seen)


def _per_row_timesteps(subject: Sampler, probe: Probe, start: Streams, conditioning: Tensors) -> Row:
    """Compare the velocities of a batch of rows at different timesteps with those of single calls."""
    model, call, rows = subject.model, probe.requests[0].call, [0, 0, len(probe.prompts) - 1]
    x = {n: v[rows] for n, v in start.items()}
    repeated = {n: v[rows] for n, v in conditioning.items()}
    t = torch.tensor([300.0, 300.0, 700.0], device=model.device)

    def predict(part: slice) -> Streams:
        xs, cs = ({n: v[part] for n, v in tensors.items()} for tensors in (x, repeated))
        velocity: Streams = subject.hooks.predict(model=model, x=xs, t=t[part], conditioning=cs, call=call, step=None)
        return velocity

    with torch.no_grad(), model.compute():
        together = predict(slice(None))
        alone = [predict(slice(i, i + 1)) for i in range(len(rows))]
    difference = max(gap(v[i : i + 1], alone[i][n]) for n, v in together.items() for i in range(len(rows)))
    mode = known_mode(model, conditioning, call)
    detail = f"a batch of different timesteps differs from single calls by {difference:.2g}"
    return judge("timesteps", difference <= STEP_TOLERANCE[model.dtype], detail + (f" ({mode} calls)" if mode else ""))
