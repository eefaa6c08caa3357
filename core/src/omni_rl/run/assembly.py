"""What a run is built of, assembled from a resolved configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omni_rl._version import __version__
from omni_rl.config.chosen import Chosen
from omni_rl.config.resolve import Resolved
from omni_rl.contracts.interfaces import Backend, Engine
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Config, Data, RewardEntry
from omni_rl.data import prompts
from omni_rl.data.prompts import PromptRow, PromptSet
from omni_rl.model.loading import load_model, pick_device
from omni_rl.plugins.context import Context
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.manager import Hooks, Manager, build_manager
from omni_rl.plugins.runspec import RunSpec
from omni_rl.preferences import require_pictures
from omni_rl.rewards.runner import RewardRunner, RewardSpec
from omni_rl.run import core_hooks
from omni_rl.run.preflight import check_ahead
from omni_rl.storage import checkpoint


@dataclass
class Parts:
    """The built pieces of a run; see :class:`omni_rl.run.start.Run`."""

    resolved: Resolved
    config: Config
    manager: Manager
    hooks: Hooks
    algorithm: Any
    trackers: list[Any]
    model: LoadedModel
    fingerprint: str
    prompts: PromptSet
    validation_rows: list[PromptRow]
    rewards: RewardRunner
    validation_rewards: RewardRunner
    backend: Backend
    engine: Engine


def build_parts(resolved: Resolved) -> Parts:
    """Cheap checks first, weights last.

    Raises:
        UserError: prompts, rewards, device, model or adapters cannot be used as configured.
    """
    config = resolved.config
    device = pick_device(config.device)
    prompts = _prompts(config.data, resolved.dataset)
    validation_data = config.validation.data
    held_out = prompts if validation_data is None else _prompts(validation_data, resolved.validation_dataset)
    if getattr(resolved.algorithm.object, "offline", False):
        require_pictures(config.data.path, prompts.rows)
    rewards = _rewards(config.reward, resolved.rewards)
    validation_rewards = _rewards(config.validation.reward or config.reward, resolved.validation_rewards)
    trackers = [chosen.instance() for chosen in resolved.trackers]
    layers = resolved.layers()
    watching = [(chosen.instance(), chosen.source) for chosen in resolved.observers]
    watching += [(t, c.source) for t, c in zip(trackers, resolved.trackers, strict=True)]
    observers = [Layer("observer", plugin, source) for plugin, source in watching]
    manager = build_manager([Layer("core", core_hooks, f"{CORE} {__version__}"), *layers, *observers])
    hooks = Hooks(manager)
    check_ahead(resolved, hooks, [(config.data, prompts.rows), (validation_data or config.data, held_out.rows)])
    model = _model(resolved, device)
    model.hooks = hooks
    objects = [layer.plugin for layer in layers]
    spec = RunSpec.of(resolved)
    backend = resolved.backend.object(Context(config, resolved.backend.options, model, hooks, objects, spec))
    engine = resolved.engine.object(Context(config, resolved.engine.options, model, hooks, objects, spec))
    return Parts(
        resolved=resolved,
        config=config,
        manager=manager,
        hooks=hooks,
        algorithm=next(layer.plugin for layer in layers if layer.name == "algorithm"),
        trackers=trackers,
        model=model,
        fingerprint=checkpoint.fingerprint(resolved.model_path),
        prompts=prompts,
        validation_rows=held_out.rows[: config.validation.prompts],
        rewards=rewards,
        validation_rewards=validation_rewards,
        backend=backend,
        engine=engine,
    )


def _prompts(data: Data, reader: Chosen) -> PromptSet:
    return prompts.load(data, lambda _: reader.object)


def _rewards(entries: list[RewardEntry], chosen: list[Chosen]) -> RewardRunner:
    return RewardRunner(
        [
            RewardSpec(entry.label or entry.name, entry.weight, entry.batch_size, plugin.instance())
            for entry, plugin in zip(entries, chosen, strict=True)
        ]
    )


def _model(resolved: Resolved, device: torch.device) -> LoadedModel:
    config = resolved.config
    return load_model(
        Path(resolved.model_path),
        device=device,
        precision=config.precision,
        full=config.model.lora is None,
        offload=config.train.offload,
        hub=config.model.path if config.model.hub else None,
    )
