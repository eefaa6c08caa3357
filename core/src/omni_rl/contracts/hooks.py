"""The contract between omni-rl and its plugins: every hook, in the order in which a run calls them.

Rules, because pluggy's own semantics differ from intuition:

* A run builds its own PluginManager: core defaults < model < algorithm < pair < local files. The most specific answer
  wins. ``tryfirst`` and ``trylast`` are rejected: the layers decide.
* ``None`` means "pass": the next layer answers. A value is never None: ``NO_STEPS``, ``NO_TOKENS``, ``NO_CONDITION``.
* An implementation names only the arguments it needs.
* Wrappers may change results, never arguments. Hooks are bound once per run.
* A public function with a hook's name but without the ``hookimpl`` marker is an error, and so is an unknown hook.

A model plugin is a module (or a class with a pydantic ``Config``) of the *model* hooks and nothing else; every one has
a working default that asks the diffusers pipeline itself (``omni_rl.universal.hooks``). An algorithm plugin is a class
with a ``Config`` and the *algorithm* hooks.

Minor version = a new hook or argument; major = a removal, a rename, a changed shape or unit; a snapshot is tested. Each
docstring says since when, who calls it, *where* (driver / trainer / engine), shapes and units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import torch
    from tensordict import TensorDict

    from omni_rl.contracts.events import RunInfo
    from omni_rl.contracts.interfaces import ExperienceSource, Policy
    from omni_rl.contracts.model import LoadedModel
    from omni_rl.contracts.prompts import PromptRow, PromptSet
    from omni_rl.contracts.requests import Request, Window
    from omni_rl.contracts.schema import Config
    from omni_rl.contracts.traits import AlgorithmTraits
    from omni_rl.contracts.types import DenoiseState, LossOutput, Sample, SigmaTable, Streams, Tensors
    from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler

CONTRACT_MAJOR = 2
CONTRACT_MINOR = 0

hookspec = pluggy.HookspecMarker("omni_rl")
hookimpl = pluggy.HookimplMarker("omni_rl")

# --------------------------------------------------------------------------------------------------------- model


@hookspec
def defaults(architecture: str) -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Configuration values that a plugin suggests, as a nested mapping of the config's own sections.

    Called once while the configuration is resolved, in every layer (not firstresult); later layers and the user's file
    win. Runs in the driver, before any weights are loaded; must not import torch. A class marks it as a static or class
    method, because its options are not known yet. A default never switches an absent section on: LoRA targets count
    only for a run that trains LoRA.

    Since 1.0. Example::

        @hookimpl
        def defaults():
            return {
                "rollout": {"steps": 50, "call": {"true_cfg_scale": 4.0, "negative_prompt": " "}},
                "model": {"lora": {"targets": ["to_q", "to_k", "to_v", "to_out.0"]}},
            }
    """


@hookspec(firstresult=True)
def tokenize(model: LoadedModel, prompts: Sequence[str], call: Mapping[str, Any]) -> Tensors | None:
    """Token ids of prompts, with the model's template and special tokens.

    Returns ``prompt_ids`` (B, L) int64 and ``prompt_ids_mask`` (B, L) int64 on the CPU, or ``NO_TOKENS`` when the
    pipeline encodes text itself. A prompt over the model's limit raises DataError; truncation is never silent.
    Called by ``prepare_encode`` for prompts and, separately, for negative prompts. ``call`` holds the pipeline's
    arguments and, where the row has media, these as PIL images; such prompts come one by one. Runs in the engine.
    Since 1.0; ``call`` since 1.2.
    """


@hookspec(firstresult=True)
def encode_prompt(
    model: LoadedModel,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    tokens: Tensors,
    call: Mapping[str, Any],
) -> Tensors | None:
    """Everything the denoiser needs from the text, computed once per trajectory and stored in it.

    With ``tokens``: called for prompts, then (``negative_prompts`` None in both calls) for negative prompts, whose
    tensors core prefixes with ``negative_``. With ``NO_TOKENS``: called once with both lists, and must return both.
    Returns (B, ...) tensors on the model's device, e.g. ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L).
    ``call`` as for ``tokenize``, media included. Runs in the engine under ``torch.no_grad``. Since 1.0.
    """


@hookspec(firstresult=True)
def prepare_condition(model: LoadedModel, requests: Sequence[Request], call: Mapping[str, Any]) -> Tensors | None:
    """Conditioning besides the prompt (source images, first frames), computed once: (B, ...) tensors.

    ``requests`` name the files (``Request.media``; ``omni_rl.data.media_files.load`` opens them). The default keeps
    what the pipeline's own encoders make of them (``omni_rl.universal.media_conditioning``). Returns ``NO_CONDITION``
    when there is none. Stored in the trajectory under ``condition/<name>`` and merged into the ``conditioning`` that
    ``predict`` receives; rows of one batch have media of equal sizes. A tensor named ``mask/<stream>`` is that stream's
    mask instead: it has the latents' dimensions (B, ...), size 1 where it holds for all, and is nonzero where an
    element is sampled. The other elements keep their initial value through the loop and count in no log-prob or KL; the
    trajectory keeps the mask, as bool, under ``mask/<stream>``. Runs in the engine under ``torch.no_grad``. Since 1.0.
    Example::

        @hookimpl
        def prepare_condition(model, requests):
            mask = torch.ones(len(requests), 1, 5, 1, 1)
            mask[:, :, 0] = 0  # the first frame is given
            return {"mask/x": mask, "first_frame": ...}
    """


@hookspec(firstresult=True)
def prepare_latents(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, Sequence[int]] | None:
    """Shape of one sample's latents per stream, without the batch dimension, as the scheduler steps them.
    Core draws x_T ~ N(0, I) of these shapes from declared keys. Runs in the engine. Since 1.0.
    """


@hookspec(firstresult=True)
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, SigmaTable] | None:
    """The schedule of every stream for ``steps`` steps at this size: timesteps (steps,), sigmas (steps + 1,), fp32,
    CPU.

    Streams usually share one table. The timesteps that ``predict`` is told are those of the first stream.

    Taken by calling the pipeline's own scheduler, so that shift, dynamic shift and terminal stretch are the
    deployment's. Runs in the engine; the result travels in the trajectory and is never recomputed. Since 1.0; a table
    for each stream since 2.0.
    """


@hookspec(firstresult=True)
def predict(
    model: LoadedModel,
    x: Streams,
    t: torch.Tensor,
    conditioning: Tensors,
    call: Mapping[str, Any],
    step: torch.Tensor | None,
) -> Streams | None:
    """Velocity dx/dsigma (noise minus data), guidance included: the one primitive that rollout and replay share.

    x: (B, ...) fp32 per stream; t: (B,) fp32 in the pipeline's unit, values may differ per row and need not lie on the
    table. Returns (B, ...) per stream, same shapes, any float dtype (core upcasts). Differentiable in the denoiser's
    parameters. ``step`` (B,) int64 is each row's index in the schedule, for pipelines whose velocity depends on it;
    None where t is off the schedule (forward-process algorithms). Runs in the engine (rollout) and the trainer
    (replay). Since 1.0; ``step`` since 2.0.
    """


@hookspec(firstresult=True)
def encode_media(model: LoadedModel, media: Tensors, conditioning: Tensors, call: Mapping[str, Any]) -> Streams | None:
    """Media to the final latents that ``decode_latents`` would make them of: (B, ...) fp32 per stream.

    ``media`` holds one kind, as ``decode_latents`` returns it. For algorithms that learn from given media. Runs in the
    trainer under no_grad. Since 1.1.
    """


@hookspec(firstresult=True)
def decode_latents(
    model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> Tensors | None:
    """Final latents (B, ...) to media: ``image`` (B, 3, H, W), ``video`` (B, F, 3, H, W), ``audio`` (B, C, S).

    Pixels in [0, 1], sound in [-1, 1]. Floating point; core quantises images and video once, for every engine.
    ``video_rate`` and ``audio_rate`` (B,) may stand beside them: frames and sound samples per second, which files and
    rewards then know. Runs in the engine under no_grad. Since 1.0; the rates since 1.2.
    """


# ------------------------------------------------------------------------------------------- scheduler and training


@hookspec(firstresult=True)
def build_scheduler(model: LoadedModel, table: SigmaTable) -> FlowMatchSDEDiscreteScheduler | None:
    """The SDE scheduler set to ``table``. Runs in the engine and in the trainer. Since 1.0."""


@hookspec(firstresult=True)
def prepare_model_inputs(policy: Policy, batch: TensorDict, steps: Sequence[int]) -> Mapping[str, Any] | None:
    """Slice a trajectory batch (B,) to S stored steps: the keyword arguments of ``Policy.predict`` for B * S rows.

    Returns ``x``, ``t`` (B * S,), ``conditioning``, ``call`` and ``step`` (B * S,), on the policy's device; all B rows
    of the first step come first. Runs in the trainer. Since 1.0; ``steps`` since 2.0.
    """


@hookspec(firstresult=True)
def forward_and_sample_previous_step(
    policy: Policy, batch: TensorDict, model_inputs: Mapping[str, Any], steps: Sequence[int]
) -> tuple[torch.Tensor, Streams, Streams, torch.Tensor] | None:
    """Forward the model at S stored steps and evaluate the stored next latents under the transition.

    Returns ``(log_prob (B, S), prev_sample_mean, std_dev_t, sqrt_dt (B, S))``; mean (B, S, ...) and std_dev_t per
    stream. ``std_dev_t`` keeps the peers' per-type meaning for callers of this API; nothing inside omni-rl reads it.
    Runs in the trainer. Since 1.0; ``steps`` since 2.0.
    """


# ----------------------------------------------------------------------------------------------------- rollout phases


@hookspec(firstresult=True)
def prepare_encode(model: LoadedModel, requests: Sequence[Request]) -> DenoiseState | None:
    """Phase 1, once per batch of requests with equal ``steps`` and ``call``: encode, draw x_T, take the schedule.

    Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def denoise_step(model: LoadedModel, states: Sequence[DenoiseState]) -> Sequence[Streams] | None:
    """Phase 2, once per step: velocities for one or several states, which may stand at different steps.

    Returns one Streams per state, in order. Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def step_scheduler(model: LoadedModel, state: DenoiseState, velocity: Streams) -> bool | None:
    """Phase 3, once per step and state: sample the transition, record inside the window, advance ``state.step``.

    Mutates ``state`` and returns True. Latents stay fp32. Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def post_decode(model: LoadedModel, state: DenoiseState) -> Sequence[Sample] | None:
    """Phase 4, once per finished state: decode media and package one trajectory per request, on the CPU.

    Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def diffuse(model: LoadedModel, requests: Sequence[Request]) -> Sequence[Sample] | None:
    """Whole-request sampling. The default is the four phases in a loop, and is the only loop in omni-rl.

    Overriding it forfeits continuous batching and the proof that both modes agree; an override must carry a
    ``reason`` attribute (a sentence), which ``omni-rl check`` prints. Runs in the engine. Since 1.0.
    """


# ---------------------------------------------------------------------------------------------------------- algorithm


@hookspec(firstresult=True)
def traits(config: Any) -> AlgorithmTraits | None:
    """What the algorithm needs from the rest of the run; ``config`` holds its validated options.

    Asked once, when the configuration is resolved, of the algorithm (not of pairs or local files), before any weights
    are loaded. Runs in the driver. Since 2.0. Example::

        @hookimpl
        def traits(self, config):
            return AlgorithmTraits(keeps=frozenset({"reference"}) if config.kl_beta > 0 else frozenset())
    """


@hookspec
def check_prompts(config: Config, path: str, rows: Sequence[PromptRow]) -> None:
    """Refuse rows of the file ``path`` that the algorithm cannot learn from, by DataError with file and row.

    Called for the training and for the validation rows, before any weights are loaded. Runs in the driver. Since 2.0.
    """


@hookspec(firstresult=True)
def experience_source(
    config: Config,
    model: LoadedModel,
    hooks: Any,
    policy: Policy,
    prompts: PromptSet,
    held_out: Sequence[PromptRow],
    fingerprint: str,
    sampled: ExperienceSource,
) -> ExperienceSource | None:
    """Where each iteration's experience comes from. Core's answer is ``sampled``: draw, score, compare within groups.

    One that draws ahead wraps it. ``held_out`` are the validation rows; ``fingerprint`` names the model's files and
    plugins. Runs in the driver, once per run. Since 2.0.
    """


@hookspec(firstresult=True)
def sde_window(iteration: int, group: int, steps: int, seed: int) -> Window | None:
    """The only source of the SDE window; runs in the driver and travels in the request.

    ``group`` is the group's index in the iteration. The scope is the group or the iteration, never the sample: there is
    no sample argument. Return ``all_steps(steps)`` for the whole trajectory but the last step, ``NO_STEPS`` for none.
    Must be a function of its arguments (draw from ``omni_rl.schedulers.randomness.seed_of(seed, "window", ...)``), so
    that a resumed run sees the same windows. Since 1.0.
    """


@hookspec(firstresult=True)
def compute_advantages(
    rewards: torch.Tensor, uid: torch.Tensor, components: Mapping[str, torch.Tensor], weights: Mapping[str, float]
) -> torch.Tensor | None:
    """Advantages (N,) fp32 from rewards (N,) fp32; ``uid`` (N,) int64 says which samples form a group.

    Missing rewards never arrive. ``components`` holds the single rewards (N,) by label, and ``weights`` the
    factors by which ``rewards`` is their sum. A group whose rewards are all equal, and a group of one, give exactly 0.
    N counts the whole batch, on every rank. Runs in the driver. Since 1.0; ``weights`` since 1.1.
    """


@hookspec(firstresult=True)
def prepare_actor_batch(
    policy: Policy, batch: TensorDict, iteration: int, seed: int, total: Callable[[torch.Tensor], torch.Tensor]
) -> TensorDict | None:
    """Last change to the iteration's batch before updates. The default returns it unchanged.

    ``batch`` holds the rank's share of the rows, groups whole; ``total(values)`` adds a tensor up over all ranks (all
    of them call it equally often), which is how a statistic of the whole batch is made.

    ``batch`` has batch size (N,), the trajectory keys, ``rewards`` (N,) and ``advantages`` (N,); its rows may become
    fewer, even none, and something else than samples (pairs), but stay neighbours by ``uid``. The number of training
    steps is the second dimension of ``timesteps`` (N, T); a forward-process algorithm sets its own. Optional entries:

    * ``order`` (N, steps) int64: the stored step that each row is trained on at each training step;
    * ``loss_weights`` (N, T) fp32: the loss of a mini-batch is the weighted mean over its rows and stored steps;
    * ``metrics/<name>`` (N,): figures, averaged over rows; a name with a slash is logged as it is.

    Runs in the trainer, once per iteration, before the first update. Since 1.0; ``policy`` and the optional entries
    since 1.1; ``total`` since 2.0.
    """


@hookspec(firstresult=True)
def compute_loss(policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput | None:
    """Losses (B, S) of one micro-batch, a part of a rank's rows, at the S training steps ``steps``.

    How many steps come at once is the backend's choice, or all of them with the trait ``whole_sequence``. A training
    step is a column of ``timesteps``; ``trajectory.at`` reads the stored step that ``order`` puts there. Runs in the
    trainer with gradients on. Since 1.0; ``steps`` since 2.0. Example::

        @hookimpl
        def compute_loss(self, policy, batch, steps):
            now = torch.stack([each.log_prob for each in policy.evaluate(batch, steps)], dim=1)  # (B, S)
            ratio = torch.exp(now - trajectory.columns(batch, "log_probs", steps).to(now))
            return LossOutput(-batch["advantages"].to(now)[:, None] * ratio)
    """


@hookspec
def after_update(policy: Policy, iteration: int, update: int, last: bool) -> None:
    """After every optimizer step; ``update`` counts them over the run, ``last`` says that it is the iteration's last
    one. Runs in the trainer. Since 1.0; ``last`` since 1.1.
    """


# ------------------------------------------------------------------------------------------------------ run observers


@hookspec
def on_run_start(run: RunInfo) -> None:
    """The run directory exists, the gate has passed, nothing has been trained. Runs in the driver. Since 1.0; RunInfo
    since 2.0.
    """


@hookspec
def on_iteration_end(run: RunInfo, row: Mapping[str, float]) -> None:
    """An iteration's metrics row is complete and written. Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_validation(run: RunInfo, iteration: int, samples: Sequence[Sample], rewards: torch.Tensor) -> None:
    """A validation pass is complete; ``rewards`` (N,). Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_checkpoint(run: RunInfo, path: str) -> None:
    """A checkpoint was written completely. Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_run_end(run: RunInfo, error: BaseException | None) -> None:
    """The run is over; ``error`` is what ended it, None for success. Runs in the driver. Since 1.0; RunInfo since
    2.0.
    """
