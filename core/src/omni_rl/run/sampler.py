"""Sampling with the weights of a run, without optimizer, trackers and rewards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from omni_rl.config.resolve import Resolved
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import CheckpointError
from omni_rl.model import weights as model_weights
from omni_rl.model.adapters import make_trainable
from omni_rl.run.assembly import context_of, sampling_hooks
from omni_rl.run.state import newest
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory


@contextlib.contextmanager
def open_sampler(resolved: Resolved, directory: RunDirectory | None) -> Iterator[Engine]:
    """The run's engine with the weights of the newest checkpoint (the EMA if there is one), as policy version 0.

    ``directory`` None: with the weights of the base model.

    Raises:
        CheckpointError: the run has no checkpoint, or one that does not fit its configuration.
    """
    hooks = sampling_hooks(resolved)
    context = context_of(resolved, hooks, resolved.engine.options)
    model = context.load_model()
    model.hooks = hooks
    make_trainable(model, resolved.config.model.lora, resolved.config.run_seed)
    if directory is not None:
        _load_newest(model, resolved, directory)
    engine: Engine = resolved.engine.object(context_of(resolved, hooks, resolved.engine.options, model))
    try:
        form = engine.takes_weights
        engine.sync(0, iter(()) if form == "none" else model_weights.weights(model, form))
        yield engine
    finally:
        engine.close()


def _load_newest(model: LoadedModel, resolved: Resolved, directory: RunDirectory) -> None:
    path = newest(directory)
    state = checkpoint.load_state(path, model.architecture)  # verifies both files
    checkpoint.same_model(path, state, resolved.model_path)
    kept = checkpoint.load_group(path, "ema" if resolved.config.train.ema is not None else "policy")
    for name, parameter in model.parameters().items():
        if name not in kept or kept[name].shape != parameter.shape:
            raise CheckpointError(f"{path} does not fit this configuration: {name}", "check model.lora and model.path")
        parameter.data.copy_(kept[name])
