"""A small deterministic run that lives in one folder, and the judgement of what an attack left of it.

``run.yaml`` trains LoRA adapters of a tiny pipeline with a reward file, an average, validations and checkpoints after
each iteration. An attack harms a run; the lab then does what a user would do, and compares with an undisturbed run.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from forked import Child, Ended, Hook, Server
from watch import told

from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory

ITERATIONS = 4
PROMPTS = ("a red card", "a dark night by the sea", "snow", "two blue birds")
REWARD = """import os


def score(batch):
    exec(os.environ.get("REWARD_FAULT", ""), {"batch": batch})
    return [float(media["image"].data.mean()) / 255 for media in batch.media]
"""
CONFIG: Mapping[str, Any] = {
    "seed": 3,
    "model": {"path": "model", "lora": {"rank": 4, "targets": ["to_q", "to_k"]}},
    "algorithm": {"name": "flow_grpo", "clip_range": 1e-3},
    "rollout": {
        "steps": 2,
        "prompts": 2,
        "group_size": 2,
        "batch_size": 4,
        "sde": {"noise_level": 1.0},
        "call": {"height": 32, "width": 32},
    },
    "reward": [{"name": "python", "file": "reward.py"}],
    "data": {"path": "prompts.txt"},
    "train": {
        "iterations": ITERATIONS,
        "lr": 3e-3,
        "micro_batch_size": 4,
        "mini_batch_prompts": 1,
        "checkpoint_every": 1,
        "keep_checkpoints": 3,
        "ema": {"decay": 0.9},
    },
    "validation": {"every": 2, "prompts": 2},
    "device": "cpu",
    "gate": "off",
}
LINES, LENGTH = 40, 4096
PATIENCE = 90.0
"""Seconds after which a case counts as hung."""

MEMORY = 4 << 30
"""Bytes of data of a process, so that a case that reads without end fails alone."""


@dataclass(frozen=True)
class Result:
    """Everything of a finished run that does not depend on the clock."""

    rows: list[dict[str, float]]
    weights: dict[str, torch.Tensor]
    validations: str

    def difference(self, other: Result) -> str | None:
        """What differs from another result; None: nothing, to the bit."""
        if json.dumps(self.rows) != json.dumps(other.rows):
            return f"other metrics: {self.rows} instead of {other.rows}"
        if self.weights.keys() != other.weights.keys():
            return "other names of weights"
        wrong = [name for name, each in self.weights.items() if not torch.equal(each, other.weights[name])]
        if wrong:
            return f"other weights: {', '.join(wrong[:3])}"
        return None if self.validations == other.validations else "other validations"


def result(run: Path) -> Result:
    """Read a finished run."""
    newest = checkpoint.latest(RunDirectory(run))
    assert newest is not None, f"{run} has no checkpoint"
    rows = [
        {key: value for key, value in row.items() if not key.startswith(("time/", "perf/"))}
        for row in RunDirectory(run).metrics()
    ]
    return Result(rows, checkpoint.load(newest)[0], (run / "validation.jsonl").read_text())


def wrong_words(ended: Ended) -> str | None:
    """What is wrong with a refusal: a traceback, too long, nothing said."""
    if ended.timed_out:
        return "it hangs"
    if "Traceback" in ended.said:
        return "a traceback"
    if len(ended.err.splitlines()) > LINES or len(ended.err.encode()) > LENGTH:
        return f"{len(ended.err.splitlines())} lines and {len(ended.err.encode())} bytes of error"
    return None if ended.err.strip() else f"it says nothing, exit code {ended.code}"


@dataclass
class Lab:
    """A folder with the inputs of a run, and the warm process.

    Attributes:
        folder: holds ``model``, ``prompts.txt``, ``reward.py``, ``run.yaml``, and the runs.
        server: the warm process.
        undisturbed: the result of the run that nothing disturbed.
    """

    folder: Path
    server: Server
    undisturbed: Result = field(init=False)
    _number: int = 0

    def furnish(self) -> None:
        """Write the inputs, and train once, so that the warm process imports what a run needs."""
        from omni_rl_tiny import build_random

        build_random(self.folder / "model")
        (self.folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
        (self.folder / "reward.py").write_text(REWARD)
        (self.folder / "run.yaml").write_text(yaml.safe_dump(dict(CONFIG), sort_keys=False))
        ended = self.server.warm(self.train("warm", "gate=on"), self.folder, environment=self.environment)
        assert ended.code == 0, ended.said
        run = self.folder / "undisturbed"
        ended = self.call(self.train(run))
        assert ended.code == 0, ended.said
        self.undisturbed = result(run)

    @property
    def environment(self) -> dict[str, str]:
        """Caches and temporary files lie in the lab."""
        names = {"XDG_CACHE_HOME": "cache", "HOME": "home", "TMPDIR": "tmp", "HF_HOME": "hub"}
        for name in names.values():
            (self.folder / name).mkdir(exist_ok=True)
        return {key: str(self.folder / name) for key, name in names.items()} | {"HF_HUB_OFFLINE": "1"}

    def new(self) -> Path:
        """The folder of a new run, which does not exist yet."""
        self._number += 1
        return self.folder / f"run-{self._number}"

    def train(self, run: str | Path, *overrides: str) -> list[str]:
        """The arguments of a new run."""
        return ["train", "run.yaml", "--run-dir", str(run), *overrides]

    def start(self, arguments: Sequence[str], *hooks: Hook, **options: Any) -> Child:
        """Start a command of a case; everything that it must not do is written down."""
        environment = self.environment | options.pop("environment", {})
        limits = {"RLIMIT_DATA": MEMORY} | options.pop("limits", {})
        data = [str(self.folder / "model"), *(str(run) for run in self.folder.glob("run-*"))]
        watch: Hook = (
            "runs.watch:record",
            {"log": str(self.log), "data": data, "writable": [str(self.folder), *options.pop("writable", ())]},
        )
        return self.server.start(arguments, self.folder, hooks=[watch, *hooks], environment=environment, limits=limits)

    def call(self, arguments: Sequence[str], *hooks: Hook, **options: Any) -> Ended:
        """:meth:`start` and wait."""
        return self.start(arguments, *hooks, **options).wait(PATIENCE)

    @property
    def log(self) -> Path:
        """What the watch wrote down."""
        return self.folder / "forbidden.jsonl"

    def forbidden(self) -> list[str]:
        """What all cases so far did and must not do."""
        return told(self.log)

    def clear(self) -> None:
        """Delete the runs of a test."""
        for run in self.folder.glob("run-*"):
            shutil.rmtree(run, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def copy(self, run: Path) -> Path:
        """A copy of a run as a new one. Its configuration does not name its own folder."""
        new = self.new()
        shutil.copytree(run, new, symlinks=True)
        return new

    def go_on(self, run: Path, harmed: Ended, *overrides: str) -> Ended:
        """What a user does after a run ended early: the command that it printed, or else training again."""
        command = printed_command(harmed)
        if command is None:
            command = ["resume", str(run)] if (run / "config.resolved.yaml").exists() else self.train(run, *overrides)
        return self.call(command)

    def judged(self, run: Path, harmed: Ended, *overrides: str) -> str | None:
        """Go on with a harmed run to its end; what is wrong then."""
        after = self.go_on(run, harmed, *overrides)
        if after.code != 0:
            return f"does not go on, exit code {after.code}: {after.said[-600:]}"
        return self.difference(run)

    def difference(self, run: Path) -> str | None:
        """How a finished run differs from the undisturbed one; None: not at all."""
        return result(run).difference(self.undisturbed)


def printed_command(ended: Ended) -> list[str] | None:
    """The command that a run that ended early told its user to type; None if it printed none."""
    found = re.findall(r"(?:continue with|run again|goes on|then): omni-rl ((?:resume|train) .*)", ended.said)
    return shlex.split(found[-1]) if found else None


def complete(run: Path) -> tuple[int, int]:
    """The numbers of complete iterations, of which the metrics tell, and of iterations that a resume keeps."""
    directory = RunDirectory(run)
    newest = checkpoint.latest(directory)
    kept = 0 if newest is None else int(newest.name.split("-")[1].split(".")[0])
    rows = directory.metrics()
    return max([kept, *(int(row["iteration"]) for row in rows)]), kept


def spread(count: int, total: int) -> Iterator[int]:
    """``count`` numbers from 1 to ``total``, evenly spread."""
    numbers = {1 + round(index * (total - 1) / max(count - 1, 1)) for index in range(count)}
    return iter(sorted(numbers))
