"""The sections of the configuration.

Unknown keys are errors. A section that names a plugin passes keys that core does not know (``extra="allow"``) to the
plugin's own ``Config``, which then refuses unknown keys. This module does not import torch, so that ``omni-rl --help``
is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat

from omni_rl.schedulers.types import LogProbType, SdeType

# Upper limits refuse numbers with which a run could never end or never fit into any memory.
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Parts = Annotated[int, Field(gt=0, le=1024)]
Rank = Annotated[int, Field(gt=0, le=4096)]
Steps = Annotated[int, Field(gt=0, le=10_000)]
Iterations = Annotated[int, Field(ge=0, le=1_000_000_000)]
Small = Annotated[float, Field(ge=0, le=1_000_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A section that no plugin extends."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PluginSection(BaseModel):
    """A section that names a plugin. Keys that core does not know are the plugin's options."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def options(self) -> dict[str, Any]:
        """The plugin's options, not validated."""
        return dict(self.model_extra or {})


class Lora(Section):
    """LoRA adapters, inserted into the denoiser's modules, with fp32 master weights."""

    rank: Rank = Field(default=16, description="rank of each adapter")
    alpha: PositiveFloat = Field(
        default=32.0, le=1_000_000, description="the adapter's output is multiplied by alpha / rank"
    )
    targets: list[Text] | Text = Field(
        default="all-linear", description="suffixes of the names of the modules that get an adapter, or 'all-linear'"
    )


class Model(PluginSection):
    """The pipeline to train, and which of its weights to train."""

    path: Text = Field(
        description="name of a shipped checkpoint, folder of a diffusers pipeline, or with `hub: true` a hub id",
        examples=["./my-pipeline"],
    )
    plugin: Text | None = Field(
        default=None,
        description="pip package to use if several offer the architecture; 'universal': use no model plugin",
    )
    lora: Lora | None = Field(default=None, description="train LoRA adapters; null: train all weights of the denoiser")
    hub: bool = Field(default=False, description="allow a model hub id as `path`, and download the model")


class Algorithm(PluginSection):
    """The RL objective. The algorithm's own options are keys of this section too."""

    name: Text = Field(description="algorithm (RL objective)", examples=["flow_grpo"])
    plugin: Text | None = Field(default=None, description="pip package to use if several offer the algorithm")


class SdeOptions(Section):
    """The noise of the denoising steps inside the SDE window."""

    type: SdeType = Field(
        default="sde",
        description="formula of the transition's mean and standard deviation; 'cps' narrows the samples' distribution "
        "(standard deviation .410, ODE .485, at 50 steps)",
    )
    noise_level: Small = Field(
        default=0.7,
        description="eta; 0 makes every step deterministic; a window of two 'sde' steps at 1 widens the samples' "
        "distribution (standard deviation .431 to .518)",
    )
    log_prob: LogProbType = Field(
        default="density",
        description="'density': Gaussian log density; 'squared_error': -(x' - mean)^2, as other frameworks use for cps",
    )


class Rollout(PluginSection):
    """Sampling. The rollout engine's own options are keys of this section too."""

    engine: Text = Field(default="diffusers", description="rollout engine")
    plugin: Text | None = Field(default=None, description="pip package to use if several offer the engine")
    steps: Steps = Field(default=10, description="denoising steps per sample")
    prompts: Count = Field(default=8, description="prompts per iteration")
    group_size: Count = Field(default=8, description="samples per prompt and iteration")
    batch_size: Count = Field(default=16, description="samples denoised in one batch")
    share_initial_noise: bool = Field(default=False, description="use the same x_T for all samples of a group")
    sde: SdeOptions = Field(default_factory=SdeOptions, description="noise of the denoising steps in the SDE window")
    call: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the pipeline's __call__; null: use the pipeline's own default for an argument",
    )


class RewardEntry(PluginSection):
    """One reward. The reward's own options are keys of this section too."""

    name: Text = Field(description="reward", examples=["ocr"])
    plugin: Text | None = Field(default=None, description="pip package to use if several offer the reward")
    label: Text | None = Field(default=None, description="name in metrics; null: `name`")
    weight: float = Field(
        default=1.0, ge=-1_000_000, le=1_000_000, description="factor in the weighted sum of all rewards"
    )
    batch_size: Count = Field(default=64, description="samples scored in one call")
    timeout_s: PositiveFloat = Field(
        default=600.0, description="seconds after which a call is given up and its samples are missing"
    )
    process: bool = Field(
        default=False, description="run the reward in a process of its own, so that it cannot change or end the run"
    )


def named(value: Any) -> Any:
    """The long form of a plugin section: ``local`` becomes ``{name: local}``."""
    return {"name": value} if isinstance(value, str) else value


def named_list(value: Any) -> Any:
    """The long form of a list of plugins: ``ocr``, ``{name: ocr}`` and ``[ocr]`` all become ``[{name: ocr}]``."""
    items = [value] if isinstance(value, (str, Mapping)) else value
    return [named(item) for item in items] if isinstance(items, list) else items


Rewards = Annotated[list[RewardEntry], Field(min_length=1), BeforeValidator(named_list)]


class Data(PluginSection):
    """The prompts, and input media of pipelines that take them."""

    path: Text = Field(
        description="prompt file: relative to the configuration file, or <shipped checkpoint>/<file>",
        examples=["prompts.txt"],
    )
    format: Text | None = Field(
        default=None, description="txt, jsonl, parquet, or a format of a plugin (geneval); null: the file's suffix"
    )
    prompt_column: Text = Field(default="prompt", description="column with the prompt")
    media: dict[Text, Text] = Field(
        default_factory=dict,
        description="pipeline argument -> column with its file or list of files, relative to the prompt file",
        examples=["{image: source}"],
    )
    call: list[Text] = Field(
        default_factory=list,
        description="columns that are arguments of the pipeline for their row; they replace those of rollout.call",
        examples=["[height, width]"],
    )
    check: Literal["full", "sample", "off"] = Field(
        default="full",
        description="before training, encode the text and open the media of every row (full), of 64 rows spread over "
        "the file (sample), or of none (off)",
    )
    shuffle: bool = Field(default=True, description="use a new random order in every epoch, drawn from `seed`")


class Ema(Section):
    """Exponential moving average (EMA) of the trained weights; validation samples with it."""

    decay: float = Field(default=0.95, ge=0, lt=1, description="ema <- decay * ema + (1 - decay) * weights")
    every: Count = Field(default=1, description="optimizer updates between two updates of the average")


class SequenceParallel(Section):
    """Several ranks share each sample, for long sequences: each computes a part of its tokens."""

    ulysses: Parts = Field(
        default=1, description="ranks that share each sample and exchange the heads of attention (Ulysses); 1: none"
    )
    ring: Parts = Field(
        default=1,
        description="ranks that share each sample and pass keys and values around (ring attention; GPU, bf16, no "
        "padded texts); with `ulysses`, the product of both shares each sample; 1: none",
    )


class Train(PluginSection):
    """The updates. The training backend's own options are keys of this section too."""

    backend: Text = Field(default="torch", description="training backend")
    iterations: Annotated[Iterations, Field(gt=0)] = Field(default=100, description="iterations of the run")
    lr: Small = Field(default=3e-4, description="learning rate of AdamW")
    warmup: Iterations = Field(default=0, description="updates with linear warm-up of the learning rate")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="betas of AdamW")
    eps: PositiveFloat = Field(
        default=1e-8, le=1, description="eps of AdamW; gradients much smaller than it hardly change the weights"
    )
    weight_decay: Small = Field(default=1e-4, description="weight decay of AdamW")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="the gradient's norm is clipped to this value")
    mini_batch_prompts: Count | None = Field(
        default=None, description="prompts per update; null: all prompts of the iteration"
    )
    inner_epochs: Count = Field(default=1, description="passes over the samples of an iteration")
    skip_flat_groups: bool = Field(
        default=False,
        description="leave out groups whose rewards are all equal (they have no gradient but count in the mean loss)",
    )
    micro_batch_size: Count = Field(
        default=16, description="samples per forward pass; changes the memory, not the result"
    )
    steps_per_forward: Count | Literal["auto"] = Field(
        default="auto",
        description="stored steps of a sample in one forward pass; changes speed and memory, not the result; auto: all "
        "steps if the weights are sharded and gradients are checkpointed, because each forward gathers all weights, "
        "otherwise 1",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass to save memory"
    )
    compile: bool = Field(
        default=False,
        description="apply torch.compile to the denoiser's repeated blocks; diffusers must know which those are",
    )
    sharding: Literal["auto", "replicated", "sharded"] = Field(
        default="auto",
        description="on several ranks, `replicated` keeps all weights on every rank, `sharded` a part of each (FSDP); "
        "auto: `replicated` with LoRA, `sharded` when all weights train",
    )
    replicas: Parts = Field(
        default=1,
        description="copies of sharded weights, each spread over equally many ranks (HSDP); divides their number",
    )
    sequence_parallel: SequenceParallel = Field(
        default_factory=SequenceParallel,
        description="ranks that share each sample, in sampling and in training; the number of ranks must be a multiple",
    )
    offload: bool = Field(
        default=False, description="keep optimizer state, text encoders and VAE on the CPU while they are not used"
    )
    ema: Ema | None = Field(default=None, description="moving average of the weights for validation; null: none")
    checkpoint_every: Iterations = Field(
        default=0, description="iterations between checkpoints; 0: only by `checkpoint_every_s` and at the end"
    )
    checkpoint_every_s: Small = Field(
        default=600,
        description="seconds after which the next complete iteration is saved; 0: only by `checkpoint_every`",
    )
    keep_checkpoints: Count = Field(default=2, description="checkpoints to keep; older ones are deleted")


class Validation(Section):
    """Rewards on held-out prompts, sampled without SDE noise. Every validation starts from the same initial noise."""

    every: Iterations = Field(
        default=10, description="iterations between validations; 0: only before and after training"
    )
    data: Data | None = Field(default=None, description="validation prompts; null: the training prompts")
    prompts: Count | None = Field(default=None, description="use only the first n prompts; null: all")
    samples_per_prompt: Count = Field(default=1, description="samples per prompt, each from its own noise")
    steps: Steps | None = Field(default=None, description="denoising steps per sample; null: rollout.steps")
    batch_size: Count | None = Field(
        default=None, description="samples denoised in one batch; null: rollout.batch_size"
    )
    call: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the pipeline's __call__; they replace those of rollout.call"
    )
    reward: Rewards | None = Field(default=None, description="validation rewards; null: the training rewards")
    seed: Seed = Field(
        default=0, description="seed of the initial noise; runs with equal values are compared on equal noise"
    )


def _gate_word(value: Any) -> Any:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _trackers(value: Any) -> Any:
    return [] if value is None else named_list(value)


class Tracker(PluginSection):
    """An experiment tracker. The tracker's own options are keys of this section too."""

    name: Text = Field(description="experiment tracker", examples=["tensorboard"])
    plugin: Text | None = Field(default=None, description="pip package to use if several offer the tracker")


class Launcher(PluginSection):
    """The processes of a run. The launcher's own options are keys of this section too."""

    name: Text = Field(
        default="local", description="launcher that starts the processes; `launcher: local` is short for this key"
    )
    plugin: Text | None = Field(default=None, description="pip package to use if several offer the launcher")
    timeout_s: PositiveFloat = Field(
        default=1800.0, description="seconds after which a process that waits for another one gives up"
    )


class Config(Section):
    """The whole configuration."""

    seed: Seed | None = Field(default=0, description="seed of every random draw; null: use a random seed and print it")
    model: Model = Field(description="the pipeline to train")
    algorithm: Algorithm = Field(description="the RL objective")
    rollout: Rollout = Field(default_factory=Rollout, description="sampling")
    reward: Rewards = Field(description="one or more rewards", examples=["{name: ocr}"])
    data: Data = Field(description="the prompts")
    train: Train = Field(default_factory=Train, description="the updates")
    validation: Validation = Field(default_factory=Validation, description="rewards on held-out prompts")
    launcher: Annotated[Launcher, BeforeValidator(named)] = Field(
        default_factory=Launcher, description="the processes of the run"
    )
    device: Text = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="precision of the model's forward pass; master weights and log-probs stay fp32"
    )
    tracker: Annotated[list[Tracker], BeforeValidator(_trackers)] = Field(
        default_factory=list, description="experiment trackers; metrics.jsonl and report.html are always written"
    )
    gate: Annotated[Literal["on", "warn", "off"], BeforeValidator(_gate_word)] = Field(
        default="on",
        description="check the run before training: 'on' stops if a check fails, 'warn' trains anyway, 'off' skips it",
    )
    plugins: list[Text] = Field(
        default_factory=list, description="Python files with plugins for this run (local plugins)"
    )

    @property
    def run_seed(self) -> int:
        """The seed of every random draw; a resolved configuration always has one."""
        assert self.seed is not None, "resolving a configuration picks a seed"
        return self.seed
