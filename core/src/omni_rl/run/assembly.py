"""Build all parts of a run from a resolved configuration. Only the package ``omni_rl.run`` uses this class."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl._version import __version__
from omni_rl.config.chosen import Chosen
from omni_rl.config.resolve import Resolved
from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Engine, ExperienceSource, Tracker, TrainsOnRanks
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.schema import Config, Data, RewardEntry
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.data import prompts as prompt_files
from omni_rl.errors import ConfigError
from omni_rl.model.loading import load_model, pick_device
from omni_rl.parallel.group import rank, world_size
from omni_rl.parallel.layout import sequence_ranks
from omni_rl.plugins.checks import check_tracker, require_members
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.manager import Hooks, Manager, build_manager
from omni_rl.rewards.build import Builder, Recipe
from omni_rl.rewards.runner import RewardRunner
from omni_rl.run import core_hooks
from omni_rl.run.closing import close_within
from omni_rl.run.experience import Sampled
from omni_rl.run.memory import memory_ahead
from omni_rl.run.preflight import check_ahead
from omni_rl.run.spec import local_files, part_of, spec_of
from omni_rl.run.together import on_rank_0
from omni_rl.run.weight_sync import give_weights
from omni_rl.storage import checkpoint


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
        resolved, config, traits: the configuration, and what the algorithm needs.
        manager, hooks: the run's plugins, and the hooks that call them.
        model: the pipeline in this process: the backend's, or one of the driver if the backend is in other processes.
        memory: a sentence about the memory of the weights; None if it cannot be told from the model's files.
        fingerprint: hash of the model's files.
        prompts, validation_rows: training and held-out prompts.
        rewards, validation_rewards, trackers, backend, engine: the run's instances.
        source: returns the training data of each iteration.
        built: its ``close()`` closes the instances, all of them even if one raises.
    """

    resolved: Resolved
    config: Config
    traits: AlgorithmTraits
    manager: Manager
    hooks: Hooks
    model: LoadedModel
    memory: str | None
    fingerprint: str
    prompts: PromptSet
    validation_rows: Sequence[PromptRow]
    rewards: RewardRunner
    validation_rewards: RewardRunner
    trackers: Sequence[Tracker]
    backend: Backend
    engine: Engine
    source: ExperienceSource
    built: contextlib.ExitStack

    def media(self) -> set[str]:
        """The image and video files of all rows."""
        given = [value for row in (*self.prompts.rows, *self.validation_rows) for value in row.media.values()]
        return {file for value in given for file in (value if isinstance(value, list) else [value])}


def assemble(resolved: Resolved) -> Assembly:
    """Build a run: cheap checks first, then load the weights. After an error, what was built is closed.

    Raises:
        UserError: prompts, rewards, device, model or adapters cannot be used as configured.
    """
    with contextlib.ExitStack() as built:
        return _assemble(resolved, built)


def _assemble(resolved: Resolved, built: contextlib.ExitStack) -> Assembly:
    config = resolved.config
    pick_device(config.device)
    prompts = _prompts(config.data, resolved.dataset)
    held_out_data = config.validation.data or config.data
    held_out = prompts if config.validation.data is None else _prompts(held_out_data, resolved.validation_dataset)
    rewards, validation_rewards = _rewards(resolved, built)
    seen = rank() == 0  # trackers and other observers get each event once
    trackers = [_tracker(chosen, built) for chosen in resolved.trackers if seen]
    observers = [(chosen.instance(), chosen.source) for chosen in resolved.observers if seen]
    observers += [(t, c.source) for t, c in zip(trackers, resolved.trackers, strict=seen)]
    manager = build_manager([*_layers(resolved), *(Layer("observer", plugin, source) for plugin, source in observers)])
    hooks = Hooks(manager)
    check_ahead(resolved, hooks, [(config.data, prompts.rows), (held_out_data, held_out.rows)])
    memory = memory_ahead(resolved)
    backend, engine, model = _trainer_and_engine(resolved, hooks, built)
    fingerprint = on_rank_0(lambda: checkpoint.fingerprint(resolved.model_path))
    held = held_out.rows[: config.validation.prompts]
    sampled = Sampled(config, hooks, prompts, backend, engine, rewards, resolved.traits.samples_with, model.in_step)
    source = hooks.experience_source(
        config=config,
        model=model,
        hooks=hooks,
        policy=backend.policy,
        prompts=prompts,
        held_out=held,
        fingerprint=_encoder_key(resolved, fingerprint),
        sampled=sampled,
    )
    require_members(source, ExperienceSource, "the answer of experience_source")
    built.callback(source.close)
    judged = (rewards, validation_rewards, trackers)
    parts = (model, memory, fingerprint, prompts, held, *judged, backend, engine, source, built.pop_all())
    return Assembly(resolved, config, resolved.traits, manager, hooks, *parts)


def sampling_hooks(resolved: Resolved) -> Hooks:
    """The hooks without observers, for sampling without a run."""
    return Hooks(build_manager(_layers(resolved)))


def context_of(resolved: Resolved, hooks: Hooks, options: Any, shared_model: LoadedModel | None = None) -> Context:
    """The arguments from which the backend or the engine is built."""
    return Context(
        resolved.config,
        options,
        _loader(resolved),
        hooks,
        spec_of(resolved),
        resolved.traits,
        shared_model,
        _loader(resolved, as_stored=True),
    )


def _trainer_and_engine(
    resolved: Resolved, hooks: Hooks, built: contextlib.ExitStack
) -> tuple[Backend, Engine, LoadedModel]:
    if sequence_ranks().size > 1 and resolved.config.train.backend != "torch":
        what = (
            f"train.sequence_parallel: the backend {resolved.config.train.backend} cannot share samples between ranks"
        )
        raise ConfigError(what, "set train.backend: torch, or ulysses: 1 and ring: 1")
    backend: Backend = resolved.backend.object(context_of(resolved, hooks, resolved.backend.options))
    require_members(backend, Backend, resolved.backend.label)
    _refuse_one_process(backend, resolved.config.train.backend)
    built.callback(backend.close)
    model = backend.model
    if model is None:  # the driver needs a pipeline too, for prompts, shapes and schedules
        model = _loader(resolved)()
        model.hooks = hooks
    engine: Engine = resolved.engine.object(context_of(resolved, hooks, resolved.engine.options, backend.model))
    require_members(engine, Engine, resolved.engine.label)
    built.callback(engine.close)
    _refuse_processes(engine, config_name=resolved.config.rollout.engine)
    give_weights(backend, engine, 0, "trained")  # an engine in another process has loaded the base model only
    return backend, engine, model


def _refuse_one_process(backend: Backend, name: str) -> None:
    """With several ranks, the backend has to train with the rows of all of them."""
    if world_size() > 1 and not (isinstance(backend, TrainsOnRanks) and backend.trains_on_ranks):
        what = f"train.backend {name} trains in one process, and this run has {world_size()}"
        raise ConfigError(what, "set train.backend: torch, or launcher: local")


def _refuse_processes(engine: Engine, config_name: str) -> None:
    """With several ranks, the engine has to sample with the backend's own model."""
    if world_size() > 1 and engine.takes_weights != "none":
        what = f"rollout.engine {config_name} has processes of its own, which several ranks cannot share yet"
        raise ConfigError(what, "set rollout.engine: diffusers, or train with one process")


def _layers(resolved: Resolved) -> list[Layer]:
    return [Layer("core", core_hooks, f"{CORE} {__version__}"), *resolved.layers()]


def _loader(resolved: Resolved, as_stored: bool = False) -> Callable[[], LoadedModel]:
    config = resolved.config

    def load() -> LoadedModel:
        return load_model(
            Path(resolved.model_path),
            device=pick_device(config.device),
            precision=config.precision,
            full=config.model.lora is None,
            offload=config.train.offload,
            hub=config.model.path if config.model.hub else None,
            as_stored=as_stored,
        )

    return load


def _encoder_key(resolved: Resolved, fingerprint: str) -> str:
    """The key of encodings that are stored across runs: the hash of the model's files, and all plugins with hooks."""
    sources = sorted(layer.source for layer in _layers(resolved))
    return " ".join([fingerprint, *sources])


def _prompts(data: Data, reader: Chosen) -> PromptSet:
    return prompt_files.load(data, lambda _: reader.object)


def _rewards(resolved: Resolved, built: contextlib.ExitStack) -> tuple[RewardRunner, RewardRunner]:
    """The rewards of training and validation; those with the same options are the same objects."""
    config, build = resolved.config, Builder(local_files(resolved))
    training = build.runner(_recipes(resolved, config.reward, resolved.rewards))
    built.callback(close_within, training.close)
    entries = config.validation.reward or config.reward
    validation = build.runner(_recipes(resolved, entries, resolved.validation_rewards))
    built.callback(close_within, validation.close)
    return training, validation


def _tracker(chosen: Chosen, built: contextlib.ExitStack) -> Tracker:
    tracker: Tracker = chosen.instance()
    check_tracker(tracker, chosen.source)
    built.callback(tracker.close)
    return tracker


def _recipes(resolved: Resolved, entries: Sequence[RewardEntry], chosen: Sequence[Chosen]) -> list[Recipe]:
    return [
        Recipe(entry, part_of(resolved, plugin), plugin.instance) for entry, plugin in zip(entries, chosen, strict=True)
    ]
