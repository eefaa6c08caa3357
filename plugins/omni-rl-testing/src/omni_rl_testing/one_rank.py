"""The program of one rank in :class:`omni_rl_testing.ranks.RanksContract`.

Usage: ``python -m omni_rl_testing.one_rank FOLDER``, with the environment of torchrun.

The folder has ``jobs.json``, and the starting weights and each rank's rows of every job. After each job, the rank
writes what it has at the end: ``<job>-<rank>.json`` and ``<job>-<rank>.safetensors``.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from omni_rl.contracts import batches, parcels
from omni_rl.contracts.context import Context
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Backend
from omni_rl.contracts.types import Tensors
from omni_rl.model.loading import load_model
from omni_rl.parallel.group import joined, rank
from omni_rl.parallel.whole import whole
from omni_rl_testing.parts import PROMPTS, Parts, assemble
from omni_rl_testing.toy import toy_model
from omni_rl_testing.witness import Witness

LORA = {"rank": 2, "alpha": 4.0}
TIMEOUT_S = 120.0
TRAIN: Mapping[str, Any] = {
    "lr": 1.0,
    "eps": 1.0,  # a change of a weight is then nearly its gradient: no rounding grows to the size of the learning rate
    "micro_batch_size": 2,
    "mini_batch_prompts": 2,
    "max_grad_norm": 1e9,
    "ema": {"decay": 0.5},
}


class Watching(Witness):
    """Keeps the gradients of the first update, if the backend's policy shows its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: Tensors = {}

    @hookimpl
    def after_update(self, policy: Any, update: int) -> None:
        """Keep them, and count the update."""
        super().after_update(policy, update)
        if update == 1:
            shown = getattr(policy, "parameters", {}).items()
            self.gradients = {n: whole(p.grad).clone() for n, p in shown if p.grad is not None}


@dataclass(frozen=True)
class Job:
    """Two iterations of training.

    Attributes:
        name: a file's name.
        folder: the pipeline's folder; None: the toy pipeline.
        plugin: the model plugin, as in an entry point; None: the universal adapter.
        backend: the backend, as in an entry point.
        options: the options of the backend; None if it has none.
        call: arguments of the pipeline's ``__call__``.
        start: the file with the weights.
        sharding: ``train.sharding``.
    """

    name: str
    folder: str | None
    plugin: str | None
    backend: str
    options: Mapping[str, Any] | None
    call: Mapping[str, Any]
    lora: bool
    sharding: str
    start: str

    def parts(self, **given: Any) -> Parts:
        """The parts of a run; ``given`` are arguments of :func:`omni_rl_testing.parts.assemble`."""
        device = torch.device("cpu")
        model = (
            toy_model()
            if self.folder is None
            else load_model(Path(self.folder), device=device, precision="fp32", full=not self.lora)
        )
        plugin = None if self.plugin is None else named(self.plugin)
        return assemble(
            model,
            plugin=plugin() if inspect.isclass(plugin) else plugin,
            algorithm=Watching(),
            backend=self.backend_of,
            **{"prompts": PROMPTS, **given},
            model={"lora": LORA if self.lora else None},
            rollout={"call": dict(self.call)},
            train={**TRAIN, "sharding": self.sharding},
        )

    def backend_of(self, context: Context) -> Backend:
        """The backend with its options."""
        found = named(self.backend)
        if self.options is None:
            return found(context)  # type: ignore[no-any-return]
        return found(replace(context, options=found.Config(**self.options)))  # type: ignore[no-any-return]

    def outcome(self, rows: TensorDict) -> Outcome:
        """Train on this rank's rows (M,) of the batch."""
        parts = self.parts()
        start = load_file(self.start)
        tensors, extra = parts.backend.state()
        parts.backend.load_state({**tensors, **start}, extra)
        figures = [parts.backend.update(rows, iteration) for iteration in range(2)]
        state, extra = parts.backend.state()
        state = {name: whole(value).clone() for name, value in state.items()}
        assert isinstance(parts.algorithm, Watching)
        sent = {name: value.clone() for name, value in parts.backend.weights("trained", "merged")}
        parts.close()
        return Outcome(figures, extra, state, parts.algorithm.gradients, sent)


@dataclass(frozen=True)
class Outcome:
    """What a rank, or the only process, has at the end of a job.

    Attributes:
        figures: the metrics of each iteration.
        extra: the backend's state besides its tensors.
        state: its tensors.
        gradients: of the first update; empty if the backend does not show them.
        sent: the weights that an engine gets.
    """

    figures: list[dict[str, float]]
    extra: dict[str, Any]
    state: Tensors
    gradients: Tensors
    sent: Tensors

    def write(self, path: Path) -> None:
        """Write it into ``path`` with the endings ``.json`` and ``.safetensors``."""
        groups = {"state": self.state, "gradients": self.gradients, "sent": self.sent}
        save_file(
            {f"{g}/{n}": v.contiguous().clone() for g, values in groups.items() for n, v in values.items()},
            path.with_suffix(".safetensors"),
        )
        path.with_suffix(".json").write_text(json.dumps({"figures": self.figures, "extra": self.extra}))

    @staticmethod
    def read(path: Path) -> Outcome:
        """The inverse of :meth:`write`."""
        groups: dict[str, Tensors] = {"state": {}, "gradients": {}, "sent": {}}
        for name, value in load_file(path.with_suffix(".safetensors")).items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        said: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        return Outcome(said["figures"], said["extra"], groups["state"], groups["gradients"], groups["sent"])


def named(target: str) -> Any:
    """The object of ``module`` or ``module:attribute``, as in an entry point."""
    return EntryPoint("", target, "").load()


def read_rows(file: Path) -> TensorDict:
    """The rows (M,) of a rank. A file with no rows of its own has one row more than it says."""
    count, rows = json.loads(file.with_suffix(".json").read_text()), parcels.unpack(file.read_bytes())
    return batches.stacked(rows)[:count]


def write_rows(file: Path, rows: TensorDict, taken: slice) -> None:
    """Write the rows ``taken`` of a batch; if they are none, its first row, so that its keys and shapes are known."""
    own = rows[taken]
    file.write_bytes(parcels.pack(list((own if len(own) else rows[:1]).unbind(0))))
    file.with_suffix(".json").write_text(json.dumps(len(own)))


def main(folder: Path) -> None:
    """Do all jobs of a folder."""
    torch.set_num_threads(1)
    with joined(TIMEOUT_S):
        for fields in json.loads((folder / "jobs.json").read_text()):
            job = Job(**fields)
            rows = read_rows(folder / f"{job.name}-{rank()}.rows")
            job.outcome(rows).write(folder / f"{job.name}-{rank()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
