"""The configuration's sections. Unknown keys are errors; a section that names a plugin keeps the keys it does not know
(``extra="allow"``) for that plugin's own ``Config``, which forbids what it does not know in turn.

This module imports no torch: the command line reads it for ``--help``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

from omni_rl.schedulers.types import LogProbType, SdeType

NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A section that no plugin extends."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PluginSection(BaseModel):
    """A section whose remaining keys belong to the plugin it names."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def options(self) -> dict[str, Any]:
        """The keys that belong to the plugin."""
        return dict(self.model_extra or {})


class Lora(Section):
    """Low-rank adapters, injected in place with fp32 master weights."""

    rank: PositiveInt = Field(default=16, description="rank of each adapter")
    alpha: PositiveFloat = Field(default=32.0, description="the adapter's output is scaled by alpha / rank")
    targets: list[str] | str = Field(default="all-linear", description="module name suffixes, or 'all-linear'")


class Model(PluginSection):
    """Which pipeline is trained, and which of its weights."""

    path: Text = Field(
        description="a shipped checkpoint's name, a diffusers pipeline folder, or (hub: true) a hub id",
        examples=["./my-pipeline"],
    )
    plugin: str | None = Field(
        default=None, description="distribution to use when several claim the architecture; 'universal' for none"
    )
    lora: Lora | None = Field(default=None, description="train adapters; null trains the full denoiser")
    hub: bool = Field(default=False, description="allow `path` to be a model hub id")


class Algorithm(PluginSection):
    """The RL objective; its own options stand beside `name`."""

    name: Text = Field(description="the RL objective", examples=["flow_grpo"])
    plugin: str | None = Field(default=None, description="distribution to use when several claim the name")


class SdeOptions(Section):
    """How noise enters the steps of the window."""

    type: SdeType = Field(default="sde", description="family of the transition")
    noise_level: NonNegative = Field(default=0.7, description="eta; 0 makes every step deterministic")
    log_prob: LogProbType = Field(default="density", description="'squared_error' is the peers' convention for cps")


class Rollout(PluginSection):
    """How samples are drawn; the engine's own options stand beside `engine`."""

    engine: Text = Field(default="diffusers", description="who samples")
    plugin: str | None = Field(default=None, description="distribution to use when several claim the engine")
    steps: PositiveInt = Field(default=10, description="denoising steps")
    prompts: PositiveInt = Field(default=8, description="prompts per iteration")
    group_size: PositiveInt = Field(default=8, description="samples per prompt")
    batch_size: PositiveInt = Field(default=16, description="samples denoised together")
    share_initial_noise: bool = Field(default=False, description="one x_T for all samples of a group")
    sde: SdeOptions = Field(default_factory=SdeOptions, description="how noise enters the steps of the window")
    call: dict[str, Any] = Field(
        default_factory=dict, description="arguments for the pipeline's __call__; null leaves one to the pipeline"
    )


class RewardEntry(PluginSection):
    """One reward; its own options stand beside `name`."""

    name: Text = Field(description="who scores", examples=["ocr"])
    plugin: str | None = Field(default=None, description="distribution to use when several claim the name")
    label: str | None = Field(default=None, description="name in metrics; default: `name`")
    weight: float = Field(default=1.0, description="factor in the weighted sum")
    batch_size: PositiveInt = Field(default=64, description="samples scored in one call")


def named(value: Any) -> Any:
    """The long form of a plugin: ``local`` means ``{name: local}``."""
    return {"name": value} if isinstance(value, str) else value


def named_list(value: Any) -> Any:
    """The long form of a list of plugins: ``ocr``, ``{name: ocr}`` and ``[ocr]`` all mean ``[{name: ocr}]``."""
    items = [value] if isinstance(value, (str, Mapping)) else value
    return [named(item) for item in items] if isinstance(items, list) else items


Rewards = Annotated[list[RewardEntry], Field(min_length=1), BeforeValidator(named_list)]


class Data(PluginSection):
    """The prompts."""

    path: Text = Field(
        description="file; relative to the configuration, or <shipped checkpoint>/<file>", examples=["prompts.txt"]
    )
    format: str | None = Field(
        default=None, description="txt, jsonl, parquet, geneval or a plugin's; default: the file's suffix"
    )
    prompt_column: str = Field(default="prompt", description="column that holds the text")
    media: dict[str, str] = Field(
        default_factory=dict,
        description="pipeline argument -> column with the file (or list of files) given for it; relative to the data",
        examples=["{image: source}"],
    )
    call: list[str] = Field(
        default_factory=list,
        description="columns that are pipeline arguments of their row, over those of rollout.call",
        examples=["[height, width]"],
    )
    shuffle: bool = Field(default=True, description="new order every epoch, a function of the seed")


class Ema(Section):
    """Exponential moving average of the trained weights, used by validation."""

    decay: float = Field(default=0.95, ge=0, lt=1, description="ema <- decay * ema + (1 - decay) * weights")
    every: PositiveInt = Field(default=1, description="updates between two steps of the average")


class Train(PluginSection):
    """Updates; the backend's own options stand beside `backend`."""

    backend: Text = Field(default="torch", description="who updates")
    iterations: PositiveInt = Field(default=100, description="iterations of the run")
    lr: NonNegative = Field(default=3e-4, description="AdamW learning rate")
    warmup: int = Field(default=0, ge=0, description="updates of linear warm-up")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="AdamW betas")
    eps: PositiveFloat = Field(default=1e-8, description="AdamW: gradients far below it move nothing")
    weight_decay: NonNegative = Field(default=1e-4, description="AdamW weight decay")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="gradients are clipped to this norm")
    mini_batch_prompts: PositiveInt | None = Field(
        default=None, description="prompts per update; null: all of the iteration"
    )
    inner_epochs: PositiveInt = Field(default=1, description="passes over the iteration's samples")
    skip_flat_groups: bool = Field(
        default=False, description="leave out groups whose rewards are all equal; they would thin the mean"
    )
    micro_batch_size: PositiveInt = Field(
        default=16, description="samples per forward; memory only, results do not depend on it"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in backward")
    compile: bool = Field(default=False, description="torch.compile the denoiser's repeated blocks")
    offload: bool = Field(
        default=False, description="keep optimizer state, text encoders and VAE on the CPU while unused"
    )
    ema: Ema | None = Field(default=None, description="null: no average")
    checkpoint_every: int = Field(default=0, ge=0, description="iterations between checkpoints; 0: only at the end")
    keep_checkpoints: PositiveInt = Field(default=2, description="older ones are deleted")


class Validation(Section):
    """Held-out scores, without noise injection, with the same noise before, during and after."""

    every: int = Field(default=10, ge=0, description="iterations between validations; 0: only before and after")
    data: Data | None = Field(default=None, description="null: the training prompts")
    prompts: PositiveInt | None = Field(default=None, description="use the first n; null: all")
    samples_per_prompt: PositiveInt = Field(default=1, description="samples of each prompt, each with its own noise")
    steps: PositiveInt | None = Field(default=None, description="null: rollout.steps")
    batch_size: PositiveInt | None = Field(default=None, description="null: rollout.batch_size")
    call: dict[str, Any] = Field(default_factory=dict, description="overrides of rollout.call")
    reward: Rewards | None = Field(default=None, description="null: the training rewards")
    seed: int = Field(default=0, description="names the noise, so that two runs can be compared")


def _gate_word(value: Any) -> Any:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _trackers(value: Any) -> Any:
    return [] if value is None else named_list(value)


class Tracker(PluginSection):
    """An experiment tracker; its own options stand beside `name`."""

    name: Text = Field(description="who keeps the figures", examples=["tensorboard"])
    plugin: str | None = Field(default=None, description="distribution to use when several claim the name")


class Launcher(PluginSection):
    """Where a run runs; the launcher's own options stand beside `name`."""

    name: Text = Field(default="local", description="who starts the run; `launcher: local` is short for this key")
    plugin: str | None = Field(default=None, description="distribution to use when several claim the name")


class Config(Section):
    """The whole configuration, as resolved."""

    seed: int | None = Field(default=0, description="names every random draw; null picks one and prints it")
    model: Model = Field(description="what is trained")
    algorithm: Algorithm = Field(description="the RL objective")
    rollout: Rollout = Field(default_factory=Rollout, description="how samples are drawn")
    reward: Rewards = Field(description="what is wanted", examples=["{name: ocr}"])
    data: Data = Field(description="the prompts")
    train: Train = Field(default_factory=Train, description="updates")
    validation: Validation = Field(default_factory=Validation, description="held-out scores")
    launcher: Annotated[Launcher, BeforeValidator(named)] = Field(default_factory=Launcher, description="where it runs")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="compute precision; masters and log-probs stay fp32"
    )
    tracker: Annotated[list[Tracker], BeforeValidator(_trackers)] = Field(
        default_factory=list, description="who keeps the figures, besides metrics.jsonl and report.html"
    )
    gate: Annotated[Literal["on", "warn", "off"], BeforeValidator(_gate_word)] = Field(
        default="on", description="prove the run before it trains"
    )
    plugins: list[str] = Field(default_factory=list, description="local Python files that are plugins of this run")

    @property
    def run_seed(self) -> int:
        """The seed of every draw; a resolved configuration always has one."""
        assert self.seed is not None, "resolving a configuration picks a seed"
        return self.seed
