"""Whole runs that are watched: what is drawn, which gradients come first, and how many rows a denoiser computes.

A rank of the tests does them (:mod:`ranks`), and so does a single process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch.nn.modules.module import register_module_forward_hook

from omni_rl import hookimpl, train
from omni_rl.contracts import parcels
from omni_rl.contracts.types import Tensors
from omni_rl.parallel.whole import whole
from omni_rl.rewards.builtin import Brightness
from omni_rl.training import metrics
from omni_rl_flow_grpo import FlowGRPO

PLUGIN = """from whole_runs import Alike, FirstPromptOnly, OnePixelMore, Watched

OMNI_RL = {
    "algorithms": {"watched": Watched},
    "rewards": {"alike": Alike, "first_prompt_only": FirstPromptOnly, "one_pixel_more": OnePixelMore},
}
"""
"""A local plugin, with which a configuration can name the classes of this module."""

PROMPTS = ["a red card", "a dark night by the sea", "snow"]
CLOCK = ("time/", "perf/")


@dataclass
class Record:
    """What happened on this rank.

    Attributes:
        drawn: the rows of the first iteration that were on this rank before they were dealt, by sample id.
        gradients: of the first update.
        weights: after the last update.
        sampled: rows of all forwards of denoisers without gradient.
        trained: the same with gradient.
        zero: for each call of the loss, its rows that do not count.
        counted: the sum of the rows of these calls.
    """

    drawn: Tensors = field(default_factory=dict)
    gradients: Tensors = field(default_factory=dict)
    weights: Tensors = field(default_factory=dict)
    sampled: int = 0
    trained: int = 0
    zero: list[int] = field(default_factory=list)
    counted: int = 0

    def see(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        """Count the rows of a denoiser."""
        if isinstance(module, ModelMixin) and "Transformer" in type(module).__name__:
            if torch.is_grad_enabled():
                self.trained += len(output[0])
            else:
                self.sampled += len(output[0])


RECORDS: list[Record] = []


class Watched(FlowGRPO):
    """FlowGRPO that fills the newest record."""

    @hookimpl
    def prepare_actor_batch(self, policy, batch, iteration, seed, total):
        if iteration == 0:
            for row in batch.unbind(0):
                named = parcels.named(row.exclude("advantages"), int(row["sample_id"]))
                RECORDS[-1].drawn |= {name: value.clone() for name, value in named.items()}
        return super().prepare_actor_batch(policy=policy, batch=batch, iteration=iteration, seed=seed, total=total)

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        output = super().compute_loss(policy, batch, steps)
        weights = metrics.loss_weights(batch, steps, output.loss).expand_as(output.loss)
        RECORDS[-1].zero.append(int((weights == 0).all(1).sum()) * len(steps))
        RECORDS[-1].counted += output.loss.numel()
        return output

    @hookimpl
    def after_update(self, policy):
        found = {n: whole(p).clone() for n, p in policy.parameters.items()}
        RECORDS[-1].weights = found
        if not RECORDS[-1].gradients:
            RECORDS[-1].gradients = {
                n: whole(p.grad).clone() for n, p in policy.parameters.items() if p.grad is not None
            }


class Alike:
    """Every group is flat."""

    scope = "sample"

    def score(self, batch):
        return [1.0] * len(batch.uids)


class FirstPromptOnly:
    """Samples of other prompts have no score."""

    scope = "sample"

    def score(self, batch):
        scores = Brightness(Brightness.Config()).score(batch)
        return [score if prompt == PROMPTS[0] else None for score, prompt in zip(scores, batch.prompts, strict=True)]


class OnePixelMore:
    """Brightness, where one pixel of a sample of each call is one of 255 levels brighter."""

    scope = "sample"

    def score(self, batch):
        first, *others = Brightness(Brightness.Config()).score(batch)
        (media,) = batch.media[0].values()
        return [first + 1 / 255 / media.data.size, *others]


@contextlib.contextmanager
def watching() -> Iterator[Record]:
    """A new record of all that happens inside."""
    RECORDS.append(Record())
    handle = register_module_forward_hook(RECORDS[-1].see)
    try:
        yield RECORDS[-1]
    finally:
        handle.remove()


def done(config: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Train, and return figures (JSON) and tensors."""
    with watching() as record:
        run = train(config, run_dir=run_dir)
    rows = [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in run.metrics]
    said = {"figures": rows, "sampled": record.sampled, "trained": record.trained, "zero": record.zero}
    groups = {"drawn": record.drawn, "gradient": record.gradients, "policy": record.weights}
    tensors = {f"{group}/{n}": v for group, values in groups.items() for n, v in values.items()}
    return {"said": {**said, "counted": record.counted}, "tensors": tensors}
