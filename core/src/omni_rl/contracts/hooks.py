"""The contract between omni-rl and its plugins: every hook, in the order in which a run calls them.

Rules, some of which differ from plain pluggy:

* Layers, from weakest to strongest: core < model plugin < algorithm plugin < plugin for a pair of both < local files.
  For most hooks the strongest layer that returns a value wins. ``tryfirst`` and ``trylast`` are errors.
* An implementation that returns ``None`` passes the call to the next layer. To return "nothing", use ``NO_STEPS``,
  ``NO_TOKENS`` or ``NO_CONDITION``.
* An implementation declares only the arguments that it needs.
* A hook wrapper may change the result, never the arguments. A run looks up its implementations once, at its start.
* A public function with a hook's name but without the ``hookimpl`` marker is an error. An unknown hook is an error.

A model plugin is a module, or a class with a pydantic ``Config``, that implements only *model* hooks. Each of them has
a default that calls the diffusers pipeline (``omni_rl.universal.hooks``). An algorithm plugin is a class with a
``Config`` that implements *algorithm* hooks.

The driver is the process of the training loop, the engine samples, and the trainer holds the training backend; by
default all three are one process. A new hook or argument raises the minor version of the contract; a removed or renamed
one, or a changed shape or unit, raises the major version. A test compares the hooks with a snapshot.
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
    """Configuration values that a plugin suggests, as a nested mapping with the sections of the configuration.

    Called once while the configuration is resolved, for every layer; values of stronger layers and of the user's file
    win. Runs in the driver, before any weights are loaded; must not import torch. In a class it must be a static or
    class method, because the plugin's options are not known yet. Suggested values never switch on a section that the
    user left out: LoRA targets apply only to a run that trains LoRA.

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
    """Token ids of B prompts, with the model's template and special tokens.

    Returns ``prompt_ids`` (B, L) int64 and ``prompt_ids_mask`` (B, L) int64 on the CPU, or ``NO_TOKENS`` if the
    pipeline encodes text without this hook. Raises DataError for a prompt longer than the model's limit; never
    truncates silently. ``prepare_encode`` calls it for the prompts and again for the negative prompts. ``call`` holds
    the pipeline's arguments, and the row's media as PIL images; prompts with media come one per call. Runs in the
    engine. Since 1.0; ``call`` since 1.2.
    """


@hookspec(firstresult=True)
def encode_prompt(
    model: LoadedModel,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    tokens: Tensors,
    call: Mapping[str, Any],
) -> Tensors | None:
    """Encode B prompts: all text conditioning of the denoiser, computed once and stored in the trajectory.

    Returns (B, ...) tensors on the model's device, e.g. ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L).
    If ``tokens`` is not empty, ``prepare_encode`` calls it for the prompts and again for the negative prompts, each
    time with ``negative_prompts=None``, and adds the prefix ``negative_`` to the second result. If ``tokens`` is
    ``NO_TOKENS``, it is called once with both lists and returns both. ``call`` as in ``tokenize``. Runs in the engine
    under ``torch.no_grad``. Since 1.0.
    """


@hookspec(firstresult=True)
def prepare_condition(model: LoadedModel, requests: Sequence[Request], call: Mapping[str, Any]) -> Tensors | None:
    """Conditioning besides the prompt (input images, first frames): (B, ...) tensors, or ``NO_CONDITION``.

    ``prepare_encode`` calls it once per batch of B requests. ``Request.media`` names the files, and
    ``omni_rl.authoring.data.load`` opens them. The default returns the outputs of the pipeline's own encoders
    (``omni_rl.universal.media_conditioning``). The trajectory stores the result under ``condition/<name>``, and
    ``predict`` receives it in ``conditioning``. The rows of one batch have media of equal sizes.

    A tensor named ``mask/<stream>`` is a mask of that stream's latents: nonzero where an element is denoised. It has
    the latents' dimensions (B, ...), or size 1 to broadcast. Masked elements keep their initial value and count in no
    log-prob and no KL. The trajectory stores the mask as bool under ``mask/<stream>``. Runs in the engine under
    ``torch.no_grad``. Since 1.0. Example::

        @hookimpl
        def prepare_condition(model, requests):
            mask = torch.ones(len(requests), 1, 5, 1, 1)
            mask[:, :, 0] = 0  # the first frame is an input
            return {"mask/x": mask, "first_frame": ...}
    """


@hookspec(firstresult=True)
def prepare_latents(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, Sequence[int]] | None:
    """Shape of one sample's latents per stream, without the batch dimension, as the scheduler steps them.

    ``prepare_encode`` calls it once per batch, then draws x_T ~ N(0, I). Runs in the engine. Since 1.0.
    """


@hookspec(firstresult=True)
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, SigmaTable] | None:
    """The schedule of every stream: timesteps (steps,) and sigmas (steps + 1,), fp32, on the CPU.

    ``prepare_encode`` calls it once per batch; ``shapes`` are those of ``prepare_latents``. The default calls the
    pipeline's own scheduler, so shift, dynamic shift and terminal stretch are those of inference. Streams usually share
    one table; ``predict`` receives the timesteps of the first stream. Runs in the engine; the trajectory stores the
    result, and replay never recomputes it. Since 1.0; a table for each stream since 2.0.
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
    """Velocity dx/dsigma (noise minus data) with guidance; rollout and replay both call it.

    Args: x (B, ...) fp32 per stream; t (B,) fp32 in the pipeline's unit, may differ per row and may lie between the
    timesteps of the schedule; ``step`` (B,) int64, each row's index in the schedule, None if t is not in the schedule
    (forward-process algorithms). Returns (B, ...) per stream, the shapes of x, any float dtype (core casts to fp32),
    differentiable in the denoiser's parameters. Runs in the engine (every denoising step) and the trainer (every
    replayed step). Since 1.0; ``step`` since 2.0.
    """


@hookspec(firstresult=True)
def encode_media(model: LoadedModel, media: Tensors, conditioning: Tensors, call: Mapping[str, Any]) -> Streams | None:
    """Encode media to final latents, (B, ...) fp32 per stream: the inverse of ``decode_latents``.

    ``media`` holds one kind of media in the format of ``decode_latents``. Called by algorithms that learn from stored
    media. Runs in the trainer under no_grad. Since 1.1.
    """


@hookspec(firstresult=True)
def decode_latents(
    model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> Tensors | None:
    """Decode final latents (B, ...): ``image`` (B, 3, H, W), ``video`` (B, F, 3, H, W), ``audio`` (B, C, S).

    Returns floating-point tensors, pixels in [0, 1], audio in [-1, 1]; core then quantises images and video to uint8.
    Optional ``video_rate`` and ``audio_rate`` (B,): frames and audio samples per second, for files and rewards.
    ``post_decode`` calls it. Runs in the engine under no_grad. Since 1.0; the rates since 1.2.
    """


# ------------------------------------------------------------------------------------------- scheduler and training


@hookspec(firstresult=True)
def build_scheduler(model: LoadedModel, table: SigmaTable) -> FlowMatchSDEDiscreteScheduler | None:
    """The SDE scheduler, set to ``table``. Runs in the engine and in the trainer. Since 1.0."""


@hookspec(firstresult=True)
def prepare_model_inputs(policy: Policy, batch: TensorDict, steps: Sequence[int]) -> Mapping[str, Any] | None:
    """Arguments of ``Policy.predict`` for S stored steps of a trajectory batch (B,): B * S rows.

    Returns ``x``, ``t`` (B * S,), ``conditioning``, ``call`` and ``step`` (B * S,) on the policy's device; the B rows
    of the first step come first. ``Policy.evaluate`` calls it. Runs in the trainer. Since 1.0; ``steps`` since 2.0.
    """


@hookspec(firstresult=True)
def forward_and_sample_previous_step(
    policy: Policy, batch: TensorDict, model_inputs: Mapping[str, Any], steps: Sequence[int]
) -> tuple[torch.Tensor, Streams, Streams, torch.Tensor] | None:
    """Forward the model at S stored steps, and compute the log-prob of the stored next latents.

    Returns ``(log_prob (B, S), prev_sample_mean, std_dev_t, sqrt_dt (B, S))``; mean (B, S, ...) and std_dev_t per
    stream. The meaning of ``std_dev_t`` depends on the SDE type, as in other frameworks; omni-rl itself does not read
    it. ``Policy.evaluate`` calls it. Runs in the trainer. Since 1.0; ``steps`` since 2.0.
    """


# ----------------------------------------------------------------------------------------------------- rollout phases


@hookspec(firstresult=True)
def prepare_encode(model: LoadedModel, requests: Sequence[Request]) -> DenoiseState | None:
    """Phase 1, once per batch of requests with equal ``steps`` and ``call``: encode, draw x_T, set the schedule.

    ``diffuse`` calls it. Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def denoise_step(model: LoadedModel, states: Sequence[DenoiseState]) -> Sequence[Streams] | None:
    """Phase 2, once per denoising step: velocities of one or several states, which may be at different steps.

    Returns one Streams per state, in order. ``diffuse`` calls it. Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def step_scheduler(model: LoadedModel, state: DenoiseState, velocity: Streams) -> bool | None:
    """Phase 3, once per step and state: sample the next latents (fp32), record them inside the SDE window.

    Changes ``state`` in place, adds 1 to ``state.step``, returns True. Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def post_decode(model: LoadedModel, state: DenoiseState) -> Sequence[Sample] | None:
    """Phase 4, once per finished state: decode media and build one trajectory per request, on the CPU.

    Runs in the engine under no_grad. Since 1.0.
    """


@hookspec(firstresult=True)
def diffuse(model: LoadedModel, requests: Sequence[Request]) -> Sequence[Sample] | None:
    """Sample all requests from start to end. The default runs the four phases in a loop.

    A plugin that overrides it loses continuous batching, and no test shows that both ways agree; it must have an
    attribute ``reason`` (a sentence), which ``omni-rl check`` prints. Runs in the engine. Since 1.0.
    """


# ---------------------------------------------------------------------------------------------------------- algorithm


@hookspec(firstresult=True)
def traits(config: Any) -> AlgorithmTraits | None:
    """What the algorithm needs from the rest of the run; ``config`` holds its validated options.

    Called once for the algorithm (not for pairs or local files), while the configuration is resolved, before any
    weights are loaded. Runs in the driver. Since 2.0. Example::

        @hookimpl
        def traits(self, config):
            return AlgorithmTraits(keeps=frozenset({"reference"}) if config.kl_beta > 0 else frozenset())
    """


@hookspec
def check_prompts(config: Config, path: str, rows: Sequence[PromptRow]) -> None:
    """Raise DataError, with file and row, if the algorithm cannot learn from a row of the file ``path``.

    Called for the training and the validation rows, before any weights are loaded. Runs in the driver. Since 2.0.
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
    """Each iteration's training batches. The default ``sampled`` draws, scores, and compares samples within groups.

    A source that samples ahead wraps ``sampled``. ``held_out`` are the validation rows; ``fingerprint`` identifies the
    model's files and the plugins. Runs in the driver, once per run. Since 2.0.
    """


@hookspec(firstresult=True)
def sde_window(iteration: int, group: int, steps: int, seed: int) -> Window | None:
    """The SDE window of one group. The driver calls it per group and sends the result in the requests.

    ``group`` is the group's index in the iteration; all samples of a group have one window. Return ``all_steps(steps)``
    for all steps but the last, ``NO_STEPS`` for none. The result must depend on the arguments only (draw from
    ``omni_rl.schedulers.randomness.seed_of(seed, "window", ...)``), so that a resumed run gets the same windows. Runs
    in the driver. Since 1.0.
    """


@hookspec(firstresult=True)
def compute_advantages(
    rewards: torch.Tensor, uid: torch.Tensor, components: Mapping[str, torch.Tensor], weights: Mapping[str, float]
) -> torch.Tensor | None:
    """Advantages (N,) fp32 from rewards (N,) fp32; samples with equal ``uid`` (N,) int64 form a group.

    ``components`` holds each reward (N,) by label; ``rewards`` is their sum, weighted by ``weights``. Samples without a
    reward are already left out. A group of one sample, and a group with equal rewards, must get exactly 0. N counts the
    samples of all ranks. Runs in the driver, once per iteration. Since 1.0; ``weights`` since 1.1.
    """


@hookspec(firstresult=True)
def prepare_actor_batch(
    policy: Policy, batch: TensorDict, iteration: int, seed: int, total: Callable[[torch.Tensor], torch.Tensor]
) -> TensorDict | None:
    """Change the iteration's batch before its first update. The default returns it unchanged.

    ``batch`` (N,) holds whole groups, this rank's share, which may be 0 rows on some ranks: the trajectory keys,
    ``rewards`` (N,) and ``advantages`` (N,).
    Samples of several sizes (``data.call``) are a lazy stack: entries of one shape are read as usual, and
    ``contracts.batches.change`` applies a function to the rows of each size. The result may have fewer rows, even none,
    or other rows (pairs); rows of one ``uid`` stay together. The number of
    training steps is the second dimension of ``timesteps`` (N, T); a forward-process algorithm sets its own.
    ``total(values)`` sums a tensor over all ranks, for statistics of the whole batch; every rank must call it and
    ``policy.map_steps`` equally often, so not once for each size. Optional entries of the result:

    * ``order`` (N, steps) int64: the stored step that each row is trained on at each training step;
    * ``loss_weights`` (N, T) fp32: the loss of a mini-batch is the weighted mean over its rows and stored steps;
    * ``metrics/<name>`` (N,): values to log, averaged over rows; without a slash in the name, as ``actor/<name>``.

    Runs in the trainer, once per iteration. Since 1.0; ``policy``, optional entries since 1.1; ``total`` since 2.0.
    """


@hookspec(firstresult=True)
def compute_loss(policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput | None:
    """Losses (B, S) of one micro-batch (B rows) at S training steps.

    The backend chooses S; with the trait ``whole_sequence`` it passes all steps at once. A training step is a column of
    ``timesteps``; ``trajectory.at`` reads the stored step that ``order`` assigns to it. Runs in the trainer with
    gradients enabled. Since 1.0; ``steps`` since 2.0. Example::

        @hookimpl
        def compute_loss(self, policy, batch, steps):
            now = torch.stack([each.log_prob for each in policy.evaluate(batch, steps)], dim=1)  # (B, S)
            ratio = torch.exp(now - trajectory.columns(batch, "log_probs", steps).to(now))
            return LossOutput(-batch["advantages"].to(now)[:, None] * ratio)
    """


@hookspec
def after_update(policy: Policy, iteration: int, update: int, last: bool) -> None:
    """Called after every optimizer update. ``update`` counts the updates of the run from 1; ``last``: it is the
    iteration's last one. Runs in the trainer. Since 1.0; ``last`` since 1.1.
    """


# ------------------------------------------------------------------------------------------------------ run observers


@hookspec
def on_run_start(run: RunInfo) -> None:
    """Called after the gate and before training; the run directory exists. Runs in the driver. Since 1.0; RunInfo since
    2.0.
    """


@hookspec
def on_iteration_end(run: RunInfo, row: Mapping[str, float]) -> None:
    """Called when an iteration's metrics are written. Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_validation(run: RunInfo, iteration: int, samples: Sequence[Sample], rewards: torch.Tensor) -> None:
    """Called after a validation; ``rewards`` (N,). Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_checkpoint(run: RunInfo, path: str) -> None:
    """Called when a checkpoint is complete on disk. Runs in the driver. Since 1.0; RunInfo since 2.0."""


@hookspec
def on_run_end(run: RunInfo, error: BaseException | None) -> None:
    """Called at the end of a run; ``error`` is None after success. Runs in the driver. Since 1.0; RunInfo since 2.0."""
