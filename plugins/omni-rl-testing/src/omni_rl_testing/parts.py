"""Builds model, hooks, engine and backend of a run for the suites, without data files, rewards and run directory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from tensordict import TensorDict

from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.plugin_defaults import applicable, defaults_of
from omni_rl.contracts import trajectory
from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Engine, SyncReport
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.spec import Part, RunSpec
from omni_rl.contracts.types import Sample, Tensors
from omni_rl.gate.probe import Probe
from omni_rl.gate.subject import Trainer
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.local import DECLARATION
from omni_rl.plugins.manager import Hooks, build_manager
from omni_rl.plugins.runspec import CORE_HOOKS, read_file
from omni_rl.run import core_hooks
from omni_rl.run.weight_sync import give_weights
from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl.sampling.plan_requests import rollout_requests
from omni_rl.schedulers.randomness import randn, seed_of
from omni_rl.training.backend import TorchBackend
from omni_rl_testing.toy import PolicyGradient

PROMPTS = ("a sign that says hello", "a", "describe the image of a world with 9 signs")
"""Prompts of different length, so that a batch needs padding."""

STEP = 0.02

POLICY = "policy/"
"""The group of the trained weights in the state of a backend."""


@dataclass(frozen=True)
class Parts:
    """The parts of a run, with the same names as in a run."""

    config: Config
    model: LoadedModel
    hooks: Hooks
    backend: Backend
    engine: Engine
    context: Context
    prompts: PromptSet
    algorithm: object
    policy_version: int = 0

    @property
    def subject(self) -> Trainer:
        """The parts that the gate's checks of sampling, replay and weights read."""
        return Trainer(
            model=self.model,
            hooks=self.hooks,
            engine=self.engine,
            config=self.config,
            backend=self.backend,
            policy_version=self.policy_version,
            sync=self.sync,
            clip_range=self.context.traits.clip_range,
        )

    def sync(self, policy_version: int | None = None) -> SyncReport:
        """Send the trained weights to the engine, by default as version ``policy_version``."""
        version = self.policy_version if policy_version is None else policy_version
        return give_weights(self.backend, self.engine, version, "trained")

    def requests(self, iteration: int = 0) -> list[Request]:
        """The requests of one iteration: ``rollout.group_size`` samples of every prompt."""
        return rollout_requests(self.config, self.hooks, self.prompts, iteration, self.policy_version)

    def draw(self, requests: Sequence[Request]) -> list[Sample]:
        """The samples of the requests, in the order of their ``sample_id``."""
        self.engine.submit(requests)
        return sorted(self.engine.completed(), key=lambda sample: sample.request.sample_id)

    def batch(self, seed: int = 0) -> TensorDict:
        """One iteration's batch for the backend, with rewards drawn from ``seed``. For an algorithm that learns from
        pairs, each sample is chosen and another one is rejected.
        """
        batch = trajectory.collate(self.draw(self.requests()))
        if self.context.traits.offline:
            return paired(batch, 1 + seed % (len(batch) - 1))
        return self.rewarded(batch, randn(seed_of("rewards", seed), [len(batch)]))

    def rewarded(self, batch: TensorDict, rewards: torch.Tensor) -> TensorDict:
        """A copy of ``batch`` with ``rewards`` (N,) and the algorithm's advantages."""
        batch = batch.clone()
        batch["rewards"] = rewards
        batch["advantages"] = self.hooks.compute_advantages(
            rewards=rewards, uid=batch["uid"], components={"reward": rewards}, weights={"reward": 1.0}
        )
        return batch

    def trained(self) -> Tensors:
        """A copy of the trained weights by canonical name, from the backend's state; fails if there are none."""
        tensors, _ = self.backend.state()
        found = {n.removeprefix(POLICY): t.clone() for n, t in tensors.items() if n.startswith(POLICY)}
        assert found, f"the backend's state has no tensor whose name starts with {POLICY}"
        return found

    def nudge(self, seed: int = 0) -> None:
        """Change every trained weight by a fixed random step: LoRA starts with B = 0, where A has no effect."""
        tensors, extra = self.backend.state()
        moved = {POLICY + n: t + STEP * randn(seed_of("nudge", seed, n), t.shape) for n, t in self.trained().items()}
        self.backend.load_state({**tensors, **moved}, extra)

    def close(self) -> None:
        """Close engine and backend."""
        self.engine.close()
        self.backend.close()


def paired(batch: TensorDict, shift: int) -> TensorDict:
    """N pairs from N samples, as the experience source of an offline algorithm makes them from files: sample i is
    chosen, and the sample ``shift`` rows later is rejected.
    """
    drawn = {"advantages", "draws", "log_probs", "loss_weights", "order", "rewards", "sigmas", "timesteps"}
    pairs = batch.exclude(*drawn)
    finals = {stream: stored["final"] for stream, stored in batch["latents"].items()}
    for entry, places in (("latents", 0), ("rejected", -shift)):
        values = {stream: {"final": final.roll(places, 0)} for stream, final in finals.items()}
        pairs[entry] = TensorDict(values, batch.batch_size)
    pairs["uid"] = batch["sample_id"]  # each pair is its own group
    return pairs


def assemble(
    model: LoadedModel,
    /,
    *,
    plugin: object = None,
    algorithm: object = None,
    options: BaseModel | None = None,
    prompts: Sequence[str] = PROMPTS,
    media: Sequence[Mapping[str, str | list[str]]] = (),
    backend: Callable[[Context], Backend] = TorchBackend,
    engine: Callable[[Context], Engine] = EmbeddedEngine,
    **sections: dict[str, Any],
) -> Parts:
    """Build the parts of a run.

    Args:
        model: a loaded model; ``backend`` makes some of its weights trainable. A backend in another process may load
            an equal one from its folder, which is ``spec.config["model"]["path"]``.
        plugin: the model plugin; None uses the universal adapter for all hooks.
        algorithm: the algorithm's instance; default: the policy gradient of :mod:`omni_rl_testing.toy`.
        options: the validated options with which ``algorithm`` was built, for its hook ``traits``.
        media: the files of each prompt, as in ``Request.media``.
        sections: the configuration; it replaces defaults of the plugins and of this module.
    """
    algorithm = PolicyGradient() if algorithm is None else algorithm
    _require_options(algorithm, options)
    layers = [Layer("core", core_hooks, "omni-rl"), Layer("algorithm", algorithm, type(algorithm).__name__)]
    if plugin is not None:
        layers.insert(1, Layer("model", plugin, getattr(plugin, "__name__", repr(plugin))))
    config = _config(layers, model, len(prompts), sections)
    hooks, load = Hooks(build_manager(layers)), _loader(model)
    spec = _spec(algorithm, options, config)
    context = Context(config, None, load, hooks, spec, hooks.traits(config=options))
    trainer = backend(context)  # first, because it adds LoRA to the model that the engine samples with
    driver = trainer.model or load()
    driver.hooks = hooks
    sampler = engine(replace(context, shared_model=trainer.model))
    files = media or [{}] * len(prompts)
    rows = PromptSet([PromptRow(prompt, media=dict(of)) for prompt, of in zip(prompts, files, strict=True)])
    parts = Parts(config, driver, hooks, trainer, sampler, context, rows, algorithm)
    parts.sync()
    return parts


def _require_options(algorithm: object, options: BaseModel | None) -> None:
    kind = type(algorithm).__name__
    if options is None and getattr(algorithm, "Config", None) is not None:
        raise TypeError(f"{kind} has options: also pass those with which it was built, assemble(..., options=...)")


def _spec(algorithm: object, options: BaseModel | None, config: Config) -> RunSpec:
    """For engines and backends in other processes. An algorithm of a local plugin is rebuilt there."""
    module = sys.modules[type(algorithm).__module__]
    declared: Mapping[str, object] = getattr(module, DECLARATION, {}).get("algorithms", {})
    given = options.model_dump(mode="json", by_alias=True) if options else {}
    parts = [Part(kind="algorithms", key=k, options=given) for k, found in declared.items() if found is type(algorithm)]
    files = (read_file(str(module.__file__)),) if parts else ()
    return RunSpec(core=CORE_HOOKS, parts=tuple(parts), files=files, config=config.model_dump(mode="json"))


def _loader(model: LoadedModel) -> Callable[[], LoadedModel]:
    """A loader that returns the model itself in its first call (for the backend) and equal copies later."""
    untouched = copy.deepcopy(model)
    first = iter([model])
    return lambda: next(first, None) or copy.deepcopy(untouched)


def _config(layers: Sequence[Layer], model: LoadedModel, prompts: int, sections: dict[str, dict[str, Any]]) -> Config:
    given = Tree(SetBy("given", "given"))
    given.overlay(_base(model.path, prompts), given.source)
    given.overlay(sections, given.source)
    merged = Tree(SetBy("given", "given"))
    for layer in layers[1:]:
        merged.overlay(applicable(defaults_of(layer, model.architecture), given), merged.source)
    merged.overlay(given.data, merged.source)
    return Config.model_validate(merged.data)


def _base(model: Path, prompts: int) -> dict[str, Any]:
    return {
        "model": {"path": str(model)},
        "algorithm": {"name": "under-test"},
        "reward": "under-test",
        "data": {"path": "under-test", "shuffle": False},
        "rollout": {"steps": 4, "prompts": prompts, "group_size": 2},
        "device": "cpu",
    }


def drawn(parts: Parts) -> Probe:
    """Draw samples of every prompt."""
    requests = parts.requests()
    samples = parts.draw(requests)
    return Probe(requests, samples, trajectory.collate(samples), spare=[])
