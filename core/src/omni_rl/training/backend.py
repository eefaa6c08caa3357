"""The ``torch`` backend: AdamW on fp32 master weights, on one rank or on several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from diffusers import ModelMixin
from tensordict import TensorDict
from torch.distributed.tensor import DTensor

from omni_rl.contracts import batches, trajectory
from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Form, Policy, TakesWeights, Weights
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Train
from omni_rl.contracts.traits import AlgorithmTraits, Copy
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError, ConfigError, RunError
from omni_rl.model import weights as model_weights
from omni_rl.model.adapters import make_trainable
from omni_rl.model.boundary import foreign
from omni_rl.parallel.agreement import any_rank, total
from omni_rl.parallel.group import world_size
from omni_rl.parallel.layout import data_ranks
from omni_rl.parallel.whole import joined_on_cpu, joined_part, own_part
from omni_rl.storage import checkpoint
from omni_rl.storage.tensor_files import HeldTensors, StoredTensors
from omni_rl.training import metrics, reduction
from omni_rl.training.dealing import MiniBatch, mini_batches
from omni_rl.training.offload import step_in_parts
from omni_rl.training.policy import TorchPolicy
from omni_rl.training.sequence import divide_sequences
from omni_rl.training.sharding import is_sharded, keep_masters, shard

VARIANTS = 64
"""Limit of compiled variants of a block: with and without gradient, LoRA and masks, for several batch sizes."""

PATIENCE = 3
"""Updates with a gradient that is not finite are skipped; after this number of them in a row, the run stops."""

FIRST_UPDATE_ONLY = {"logp_absdiff_max", "rollout_logp_absdiff_max"}
"""Metrics of the iteration's first update only. The replay error has a meaning only before the policy changes."""


class TorchBackend:
    """Trains on one iteration's batch: inner epochs x mini-batches x (micro-batches x training steps).

    Losses are averaged over all samples and steps of a mini-batch, so the micro-batch size changes only the memory. A
    mini-batch consists of whole groups, in the order of the rollout.

    With several ranks, each has a share of every mini-batch, and gradients are summed over the ranks: number of ranks
    and sharding do not change the result beyond rounding. Except for ``close`` and ``weight_names``, all ranks must
    call each method together.

    A backend with the networks, the sharding or the clipping of another library derives from this class and overrides
    :meth:`loaded`, :meth:`shard` or :meth:`clip`.
    """

    trains_on_ranks = True

    def __init__(self, context: Context) -> None:
        self._config, self._hooks = context.config.train, context.hooks
        self._whole_sequence = context.traits.whole_sequence
        self._seed = context.config.run_seed
        self.model = self.loaded(context)
        self.model.hooks = context.hooks
        make_trainable(self.model, context.config.model.lora, self._seed)
        _prepare_modules(self.model, self._config)
        divide_sequences(self.model, self._config)
        if _shards(context):
            self.shard()
            keep_masters(self.model)
        low = [n for n, p in self.model.parameters().items() if p.dtype != torch.float32]
        assert not low, f"trained weights must be fp32 masters: {low[:3]}"
        policy = TorchPolicy(self.model, context.hooks, context.config)
        self.policy: Policy = policy
        self._restore_trained = policy.restore_trained
        self._parameters = policy.parameters
        for name in _kept_copies(context):
            policy.named[name] = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._named = policy.named
        train = self._config
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=train.lr,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
            foreach=True if self.model.sharded and self.model.device.type == "cuda" else None,  # as for plain tensors
        )
        self.updates = 0
        self._skipped = 0  # updates skipped in a row

    def loaded(self, context: Context) -> LoadedModel:
        """The model before adapters are added and weights are sharded. A derived backend may use other networks."""
        return (context.load_as_stored if _shards(context) and context.load_as_stored else context.load_model)()

    def shard(self) -> None:
        """Spread the weights of ``model`` over the ranks, and set ``model.sharded``. Gradients must be summed."""
        shard(self.model, self._config.replicas)

    def clip(self, parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
        """Clip the norm of all gradients together to ``limit``; returns the norm before, equal on all ranks."""
        return reduction.clip(parameters, limit)

    def update(self, batch: TensorDict, iteration: int) -> dict[str, float]:
        """All updates of one iteration with a batch (N,). Metrics ``actor/*`` are means over the updates."""
        if any_rank(len(batch) > 0):  # none if skip_flat_groups has removed all groups
            batch = self._prepared(batch, iteration)
        parts = mini_batches(batch, self._config.mini_batch_prompts, self.model.sharded) * self._config.inner_epochs
        rows = [self._one_update(part, iteration, n == len(parts)) for n, part in enumerate(parts, 1)]
        figures = metrics.figures(batch)
        if rows:
            figures |= {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
            figures |= {k: rows[0][k] for k in FIRST_UPDATE_ONLY & rows[0].keys()}
        figures |= {"updates": len(rows), "skipped_updates": sum(r["skipped_updates"] for r in rows)}
        return {k if "/" in k else f"actor/{k}": v for k, v in figures.items()}

    def _prepared(self, batch: TensorDict, iteration: int) -> TensorDict:
        prepare = self._hooks.prepare_actor_batch
        prepared: TensorDict = prepare(
            policy=self.policy,
            batch=batch,
            iteration=iteration,
            seed=self._seed,
            total=lambda values: total(values, data_ranks()),
        )
        return prepared

    def _one_update(self, batch: MiniBatch, iteration: int, last: bool) -> dict[str, float]:
        self._optimizer.zero_grad(set_to_none=True)
        meter = metrics.Meter()
        for rows in batch.blocks:
            self._add_gradients(rows, batch.terms, meter)
        parameters = list(self._parameters.values())
        reduction.sum_over_ranks(parameters)
        norm = self.clip(parameters, self._config.max_grad_norm)
        lr = self._learning_rate()
        finite = math.isfinite(norm)
        if finite:
            self._step(lr)
        self._count_skipped(iteration, finite)
        if finite:
            self._hooks.after_update(policy=self.policy, iteration=iteration, update=self.updates, last=last)
        return {**meter.means(batch.terms), "grad_norm": norm, "lr": lr, "skipped_updates": float(not finite)}

    def _add_gradients(self, rows: TensorDict, terms: float, meter: metrics.Meter) -> None:
        """Add the gradients of the summed loss of these rows, divided by ``terms``."""
        for _, micro_batch in batches.parts(rows, self._config.micro_batch_size):
            for steps in self._steps_together(trajectory.steps_of(rows)):
                output = self._hooks.compute_loss(policy=self.policy, batch=micro_batch, steps=steps)
                weights = metrics.loss_weights(micro_batch, steps, output.loss)
                (metrics.weighted(output.loss, weights).sum() / terms).backward()
                meter.add(output, weights)

    def _steps_together(self, count: int) -> list[list[int]]:
        """The training steps of each call of ``compute_loss``."""
        size, every = self._config.steps_per_forward, range(count)
        if size == "auto":
            size = count if self.model.sharded and self._config.gradient_checkpointing else 1
        if self._whole_sequence:
            size = count
        return [list(every[first : first + size]) for first in range(0, count, max(1, size))]

    def _step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self._config.offload:
            step_in_parts(self._optimizer, self.model.device)
        else:
            self._optimizer.step()
        self.updates += 1
        self._average_weights()

    def _count_skipped(self, iteration: int, finite: bool) -> None:
        """Count updates that are skipped because a gradient that is not finite would make all weights not finite.

        Raises:
            RunError: ``PATIENCE`` updates in a row were skipped.
        """
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= PATIENCE:
            raise RunError(
                f"{PATIENCE} updates in a row, the last in iteration {iteration}, had a gradient that is not finite; "
                "they were skipped. Lower train.lr, or look at the losses in metrics.jsonl"
            )

    def _learning_rate(self) -> float:
        warmup = self._config.warmup
        return self._config.lr * min(1.0, (self.updates + 1) / (warmup + 1))

    def _average_weights(self) -> None:
        ema = self._config.ema
        if ema is None or self.updates % ema.every:
            return
        average = self._named["ema"]
        for name, parameter in self._parameters.items():
            average[name].lerp_(parameter.detach(), 1 - ema.decay)

    def weights(self, copy: Copy, form: Form) -> Weights:
        """Yield the weights of a copy; until the iterator ends, the model has this copy."""
        with nullcontext() if copy == "trained" else self.policy.weights(copy):
            yield from model_weights.weights(self.model, form)

    def weight_names(self, form: TakesWeights) -> Sequence[str]:
        """See :class:`omni_rl.contracts.interfaces.Backend`."""
        return model_weights.weight_names(self.model, form)

    def close(self) -> None:
        """Releases nothing: the backend holds only memory of this process."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors ``policy/<name>``, ``<copy>/<name>`` and ``optimizer/<name>/<key>``, and the number of updates.

        They are not copied: store them before the next update. With sharded weights they are sharded, too.
        """
        self._restore_trained()
        tensors = {name: target.detach() for name, target in self._targets().items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = _joined_state(value, parameter)
        return tensors, {"updates": self.updates}

    def load_state(self, tensors: Mapping[str, torch.Tensor], extra: dict[str, Any]) -> None:
        """Restore exactly. Raises CheckpointError if a tensor is missing, has another shape, or is not used."""
        stored = tensors if isinstance(tensors, StoredTensors) else HeldTensors(tensors)
        unused = set(stored)
        for name, target in self._targets().items():
            _fits(name, stored, target)
            own_part(target).copy_(stored.part(name, target))
            unused.discard(name)
        for name, parameter in self._parameters.items():
            prefix = f"optimizer/{name}/"
            mine = {k for k in unused if k.startswith(prefix)}
            if mine:
                self._optimizer.state[parameter] = {
                    k.removeprefix(prefix): self._restored(k, stored, parameter) for k in mine
                }
                unused -= mine
        if unused:
            raise CheckpointError(
                f"the checkpoint has {len(unused)} tensors that this run does not use, e.g. {min(unused)}"
            )
        self.updates = int(extra["updates"])

    def _targets(self) -> Tensors:
        return checkpoint.flatten({"policy": self._parameters, **self._named})

    def _restored(self, name: str, stored: StoredTensors | HeldTensors, parameter: torch.nn.Parameter) -> torch.Tensor:
        if name.endswith("/step"):
            return stored[name].clone()
        _fits(name, stored, parameter)
        part = stored.part(name, parameter)
        if self._config.offload:
            return part.to("cpu", copy=True)
        return joined_part(part.to(self.model.device, copy=True), parameter)


def _shards(context: Context) -> bool:
    """Whether weights are sharded.

    Raises:
        ConfigError: they are not, but copies of sharded weights are asked for.
    """
    train = context.config.train
    sharded = is_sharded(train, context.config.model.lora is not None)
    if train.replicas > 1 and world_size() > 1 and not sharded:
        what = f"train.replicas: {train.replicas}, but every rank holds all weights"
        raise ConfigError(what, "set train.sharding: sharded, or train.replicas: 1")
    return sharded


def copies_of(train: Train, traits: AlgorithmTraits) -> tuple[str, ...]:
    """Names of the copies of the trained weights: those that the algorithm uses, and ``ema`` if it is configured."""
    return tuple(sorted({*traits.keeps, *(("ema",) if train.ema is not None else ())}))


def _kept_copies(context: Context) -> tuple[str, ...]:
    """:func:`copies_of` a run.

    Raises:
        ConfigError: the algorithm uses the EMA, but ``train.ema`` is not set.
    """
    if "ema" in context.traits.keeps and context.config.train.ema is None:
        name = context.config.algorithm.name
        raise ConfigError(f"{name} with these options needs the moving average of the weights", "set train.ema.decay")
    return copies_of(context.config.train, context.traits)


def _prepare_modules(model: LoadedModel, train: Train) -> None:
    for denoiser in model.denoisers.values():
        if train.gradient_checkpointing:
            with foreign(f"{type(denoiser).__name__} has no gradient checkpointing", "set it to false"):
                cast(ModelMixin, denoiser).enable_gradient_checkpointing()
        if train.compile:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
            _compile(denoiser)


def _compile(denoiser: torch.nn.Module) -> None:
    """Compile the repeated blocks, which diffusers names for some denoisers only.

    Raises:
        ConfigError: it names none for this denoiser.
    """
    if not getattr(denoiser, "_repeated_blocks", None):
        what = f"train.compile: diffusers does not say which blocks of {type(denoiser).__name__} repeat"
        raise ConfigError(what, "set train.compile: false")
    with foreign(f"train.compile: {type(denoiser).__name__} cannot be compiled", "set train.compile: false"):
        cast(ModelMixin, denoiser).compile_repeated_blocks(fullgraph=True)


def _joined_state(value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """A tensor of the optimizer's state, sharded as its parameter is.

    While it is offloaded, it is the part of this rank. Shapes do not tell: of a parameter with one row, one rank has
    the whole and the others have nothing.
    """
    if value.ndim == 0 or isinstance(value, DTensor):
        return value.detach()
    return joined_on_cpu(value.detach(), parameter)


def _fits(name: str, stored: StoredTensors | HeldTensors, target: torch.Tensor) -> None:
    shape = stored.shape(name) if name in stored else None
    if shape != target.shape:
        has = "no tensor" if shape is None else f"shape {tuple(shape)}"
        raise CheckpointError(
            f"the checkpoint has {has} for {name!r}, this run needs shape {tuple(target.shape)}",
            "resume with the configuration (model, lora, ema) of the original run",
        )


_: type[Backend] = TorchBackend
