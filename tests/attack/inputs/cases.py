"""One attack: a folder of files, the command that reads them, and what its end must look like."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from forked import Ended, Hook, Server

LINES, LENGTH, SECONDS, PEAK_MIB = 40, 4096, 10.0, 2048.0
"""Most lines, bytes, seconds and memory of a refusal."""

PATIENCE = 90.0
"""Seconds after which an accepted case counts as hung."""

Verdict = Literal["trains", "refused", "either"]

BASE: Mapping[str, Any] = {
    "seed": 3,
    "model": {"path": "model", "lora": None},
    "algorithm": {"name": "flow_grpo", "clip_range": 1e-3},
    "rollout": {
        "steps": 2,
        "prompts": 1,
        "group_size": 2,
        "batch_size": 4,
        "sde": {"noise_level": 0.7},
        "call": {"height": 32, "width": 32},
    },
    "reward": [{"name": "brightness"}],
    "data": {"path": "prompts.txt"},
    "train": {"iterations": 1, "lr": 1e-3, "micro_batch_size": 4},
    "validation": {"every": 0, "prompts": 1},
    "device": "cpu",
    "gate": "off",
}
"""A run of about a second."""


def text_of(config: Mapping[str, Any]) -> str:
    """A configuration as YAML 1.2 that every reader understands."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Case:
    """An input.

    Attributes:
        what: says in a few words what is odd about it.
        files: the contents of files by their relative paths; those that every run needs are there already.
        links: relative path -> what the symbolic link leads to.
        overrides: the arguments after the configuration.
        verdict: ``trains`` for a valid variation, ``refused`` for what can only be refused.
        takes: dotted key -> the value that it must have in the resolved configuration, if the case is accepted.
        command: ``config`` only resolves, for what would train for hours.
        may_fail: only the pipeline's own code can judge it, so the run may also fail with exit code 1 and a message.
        model: the folder of the pipeline: a link to it is at ``model``, unless ``files`` has files below ``model``.
        without: files below ``model`` that are left out.
    """

    what: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    verdict: Verdict = "either"
    takes: Mapping[tuple[str | int, ...], Any] = field(default_factory=dict)
    command: Literal["train", "config"] = "train"
    may_fail: bool = False
    model: str = "tiny"
    without: tuple[str, ...] = ()


def write(case: Case, folder: Path, models: Mapping[str, Path]) -> None:
    """Write the case's files into its folder, which exists and is empty."""
    own_model = any(name.startswith("model/") for name in (*case.files, *case.links))
    if own_model:
        _linked(models[case.model], folder / "model", {*case.files, *case.links, *case.without})
    else:
        (folder / "model").symlink_to(models[case.model])
    base = {"run.yaml": text_of(BASE).encode(), "prompts.txt": b"a red card\na dark night by the sea\n"}
    for name, content in {**base, **case.files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, target in case.links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)


def _linked(source: Path, folder: Path, own: set[str]) -> None:
    """A copy of a model folder by links to its files, as a hub's cache has; without those that the case has itself."""
    for file in sorted(source.rglob("*")):
        name = f"model/{file.relative_to(source).as_posix()}"
        if file.is_file() and name not in own:
            (folder.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.parent / name).symlink_to(file)


def run(case: Case, server: Server, folder: Path, hooks: tuple[Hook, ...] = ()) -> Ended:
    """Run the case's command in its folder."""
    end = ("--run-dir", "out") if case.command == "train" else ()
    words = [case.command, "run.yaml", *end, "--", *case.overrides]
    environment = {"XDG_CACHE_HOME": str(folder / "cache")}
    return server.run(words, folder, PATIENCE, hooks=hooks, environment=environment, limits={"RLIMIT_DATA": 6 * 2**30})


def fault(case: Case, ended: Ended, folder: Path) -> str | None:
    """Why the end is not right; None if it is."""
    if ended.timed_out:
        return f"did not end within {PATIENCE:g} s"
    if "Traceback" in ended.said:
        return "a traceback"
    if ended.peak_mib > PEAK_MIB:
        return f"{ended.peak_mib:.0f} MiB"
    if ended.code == 0:
        return "was accepted" if case.verdict == "refused" else _wrong_result(case, ended, folder)
    if ended.code != 2 and not (ended.code == 1 and case.may_fail):
        return f"exit code {ended.code}"
    return "was refused" if case.verdict == "trains" else _wrong_refusal(ended)


def _wrong_refusal(ended: Ended) -> str | None:
    if len(ended.said.splitlines()) > LINES:
        return f"a message of {len(ended.said.splitlines())} lines"
    if len(ended.said.encode(errors="replace")) > LENGTH:
        return f"a message of {len(ended.said)} characters"
    if not ended.err.strip():
        return "no message"
    return f"{ended.seconds:.0f} s for a refusal" if ended.seconds > SECONDS else None


def _wrong_result(case: Case, ended: Ended, folder: Path) -> str | None:
    printed = ended.out if case.command == "config" else (folder / "out/config.resolved.yaml").read_text()
    resolved = yaml.safe_load(printed)
    for path, value in case.takes.items():
        found = _at(resolved, path)
        if not equal(found, value):
            return f"{path} is {found!r:.60}, not {value!r:.60}"
    return None if case.command == "config" else _wrong_training(folder, resolved)


def _wrong_training(folder: Path, resolved: Mapping[str, Any]) -> str | None:
    rows = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    if len(rows) != resolved["train"]["iterations"]:
        return f"{len(rows)} iterations of {resolved['train']['iterations']}"
    odd = [name for row in rows for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return f"{odd[0]} is not finite" if odd else None


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return f"nothing at {key!r}"
    return value


def equal(found: Any, given: Any) -> bool:
    """Whether a resolved value is the given one; numbers may be of another type."""
    if isinstance(given, bool) or isinstance(found, bool):
        return found is given
    if isinstance(given, (int, float)) and isinstance(found, (int, float, str)):
        return math.isclose(float(found), given, rel_tol=1e-12)  # PyYAML reads 1e-06 as text
    if isinstance(given, dict) and isinstance(found, dict):
        return all(equal(found.get(key), value) for key, value in given.items())
    return bool(found == given)
