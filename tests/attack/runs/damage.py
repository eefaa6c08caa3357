"""Ways in which the files of a run become other files before it is resumed."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Act = Callable[[Path], None]


class Damage(NamedTuple):
    """``act`` harms a file or folder that ``path`` names, relative to the run (or, with ``shared``, to the lab)."""

    name: str
    path: str
    act: Act
    shared: bool = False


def flip(share: float) -> Act:
    """Another value of the byte at this share of the file."""

    def act(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(int(share * len(data)), len(data) - 1)] ^= 0x11
        file.write_bytes(data)

    return act


def cut(share: float) -> Act:
    """Only the first share of the file."""

    def act(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: int(share * len(data))])

    return act


def put(data: bytes) -> Act:
    """Another content."""
    return lambda file: file.write_bytes(data) and None


def more(data: bytes) -> Act:
    """Bytes after the end."""
    return lambda file: file.write_bytes(file.read_bytes() + data) and None


def delete(path: Path) -> None:
    """No file."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(file: Path) -> None:
    """A folder with its name."""
    file.unlink()
    file.mkdir()


def fifo(file: Path) -> None:
    """A pipe: who reads it waits for ever."""
    file.unlink()
    os.mkfifo(file)


def link_out(path: Path) -> None:
    """A link to the same content outside of the run."""
    outside = outside_of(path)
    outside.parent.mkdir(parents=True, exist_ok=True)
    path.rename(outside)
    path.symlink_to(outside)


def outside_of(path: Path) -> Path:
    """Where :func:`link_out` moves a path."""
    run = next(parent for parent in path.parents if parent.name.startswith("run-"))
    return run.parent / "outside" / path.relative_to(run)


def link_loop(path: Path) -> None:
    """A link to itself."""
    delete(path)
    path.symlink_to(path)


def link_device(path: Path) -> None:
    """A link to a device without end."""
    delete(path)
    path.symlink_to("/dev/zero")


def huge_header(file: Path) -> None:
    """A file that claims a header of 2^62 bytes."""
    file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])


class Evil:
    """Its unpickling makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def pickled(file: Path) -> None:
    """A pickle in place of the file."""
    file.write_bytes(pickle.dumps(Evil()))


def also_pickled(file: Path) -> None:
    """A pickle beside the file, with the names that other programs read."""
    for suffix in (".bin", ".pt", ".pkl"):
        file.with_suffix(suffix).write_bytes(pickle.dumps(Evil()))


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Act:
    """Other lines."""
    return lambda file: file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True)))) and None


def text(old: str, new: str) -> Act:
    """A replaced text."""

    def act(file: Path) -> None:
        before = file.read_text()
        after = re.sub(old, new, before, count=1)
        assert before != after, f"{file} has no {old}"
        file.write_text(after)

    return act


def values(change: Callable[[dict], None]) -> Act:
    """Other values of a JSON object."""

    def act(file: Path) -> None:
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return act


NEWEST, EARLIER = "checkpoints/iteration-000002", "checkpoints/iteration-000001"
FILES = (
    "config.resolved.yaml",
    "metrics.jsonl",
    "validation.jsonl",
    "provenance.json",
    "gate.json",
    "images/before.safetensors",
    "images/validation-000000.png",
    "checkpoints/latest.json",
    f"{NEWEST}/state.json",
    f"{NEWEST}/tensors.safetensors",
    f"{EARLIER}/state.json",
    f"{EARLIER}/tensors.safetensors",
)
TO_A_FILE: tuple[tuple[str, Act], ...] = (
    *((f"byte at {share:.0%} flipped", flip(share)) for share in (0.0, 0.03, 0.35, 0.7, 1.0)),
    ("cut in half", cut(0.5)),
    ("last byte missing", cut(0.9999)),
    ("empty", put(b"")),
    ("NUL bytes", put(bytes(1000))),
    ("not UTF-8", put(b"\xff\xfe\xfd" * 40)),
    ("nested deeply", put(b"[" * 100_000)),
    ("another JSON", put(b"[1, 2]\n")),
    ("twice", lambda file: file.write_bytes(file.read_bytes() * 2) and None),
    ("bytes at the end", more(b"\x00garbage\n")),
    ("deleted", delete),
    ("a folder", folder),
    ("a FIFO", fifo),
    ("a link out", link_out),
    ("a link to itself", link_loop),
    ("a link to a device", link_device),
    ("a pickle", pickled),
    ("pickles beside it", also_pickled),
)


def to_every_file() -> Iterator[Damage]:
    """Every kind of damage to every file of the run."""
    for file in FILES:
        for name, act in TO_A_FILE:
            yield Damage(f"{file}: {name}", file, act)


def swap(one: str, other: str) -> Act:
    """Exchange two files of a run; rename one if the other does not exist."""

    def act(run: Path) -> None:
        (run / one).rename(run / "swapped")
        if (run / other).exists():
            (run / other).rename(run / one)
        (run / "swapped").rename(run / other)

    return act


def take(source: Path, name: str) -> Act:
    """Put in a file or folder of another run."""

    def act(path: Path) -> None:
        delete(path)
        copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
        copy(source / name, path)

    return act


def particular(other: Path) -> Iterator[Damage]:
    """Damage that needs to know what a file means. ``other``: a run with another seed."""
    for name in (*FILES[:4], NEWEST, EARLIER, "checkpoints", "images/before.safetensors"):
        yield Damage(f"{name} of another run", name, take(other, name))
    for name in ("state.json", "tensors.safetensors"):
        yield Damage(f"{name} of another run", f"{NEWEST}/{name}", take(other, f"{NEWEST}/{name}"))
        yield Damage(f"{name} exchanged", "", swap(f"{NEWEST}/{name}", f"{EARLIER}/{name}"))
    yield Damage("checkpoints exchanged", "", swap(NEWEST, EARLIER))
    yield Damage(
        "newest checkpoint renamed", NEWEST, lambda path: path.rename(path.with_name("iteration-000009")) and None
    )
    yield Damage("newest is a link", NEWEST, link_out)
    yield Damage("all checkpoints are links", "checkpoints", link_out)
    yield Damage("pictures are links", "images", link_out)
    yield Damage("newest checkpoint deleted", NEWEST, delete)
    yield Damage("all checkpoints deleted", "checkpoints", delete)
    yield Damage("header of 2^62 bytes", f"{NEWEST}/tensors.safetensors", huge_header)
    yield Damage("header of 2^62 bytes, before", "images/before.safetensors", huge_header)
    for pointer in ("../../../etc", "iteration-000001", "..", "iteration-999999", "\\\\u0000"):
        yield Damage(f"latest.json names {pointer}", "checkpoints/latest.json", text("iteration-000002", pointer))
    yield Damage("first row missing", "metrics.jsonl", lines(lambda rows: rows[1:]))
    yield Damage("last row missing", "metrics.jsonl", lines(lambda rows: rows[:-1]))
    yield Damage("last row double", "metrics.jsonl", lines(lambda rows: [*rows, rows[-1]]))
    yield Damage("rows exchanged", "metrics.jsonl", lines(lambda rows: rows[::-1]))
    yield Damage("an empty row", "metrics.jsonl", lines(lambda rows: [rows[0], b"\n", *rows[1:]]))
    yield Damage("a half row at the end", "metrics.jsonl", more(b'{"iteration": 3, "rewa'))
    yield Damage("a row of a later iteration", "metrics.jsonl", more(b'{"iteration": 3, "reward/mean": 1.0}\n'))
    yield Damage("another figure", "metrics.jsonl", text(r'"reward/mean": 0\.', '"reward/mean": 1.'))
    yield Damage("NaN as a figure", "metrics.jsonl", text(r'"reward/mean": [0-9.e-]+', '"reward/mean": NaN'))
    yield Damage("text as a figure", "metrics.jsonl", text(r'"iteration": 1', '"iteration": "1"'))
    yield Damage("a boolean iteration", "metrics.jsonl", text(r'"iteration": 1', '"iteration": true'))
    yield Damage("a validation missing", "validation.jsonl", lines(lambda rows: rows[:-1]))
    yield Damage("a validation double", "validation.jsonl", lines(lambda rows: [*rows, rows[-1]]))
    yield Damage(
        "another validation figure", "validation.jsonl", text(r'"val/reward/mean": 0\.', '"val/reward/mean": 1.')
    )
    yield from configured()
    yield from hashed()
    yield from inputs()


def configured() -> Iterator[Damage]:
    """Edited configurations."""
    for key, old, new in (
        ("seed", r"seed: 3", "seed: 4"),
        ("lr", r"lr: 0\.003", "lr: 0.004"),
        ("alpha", r"alpha: 32\.0", "alpha: 64.0"),
        ("rank", r"rank: 4", "rank: 8"),
        ("targets", r"- to_q", "- to_v"),
        ("decay", r"decay: 0\.9", "decay: 0.5"),
        ("steps", r"steps: 2", "steps: 3"),
        ("group_size", r"group_size: 2", "group_size: 4"),
        ("clip", r"clip_range: 0\.001", "clip_range: 0.01"),
        ("unknown key", r"seed: 3", "seed: 3\nsede: 3"),
        ("two seeds", r"seed: 3", "seed: 3\nseed: 4"),
        ("a tag", r"seed: 3", "seed: !!python/object/apply:os.mkdir [unpickled]"),
        ("another model", r"path: (.*)model\n", r"path: \1nothing\n"),
        ("iterations", r"iterations: 4", "iterations: 2"),
    ):
        yield Damage(f"configuration: {key}", "config.resolved.yaml", text(old, new))


def hashed() -> Iterator[Damage]:
    """A state that was edited, with a hash that fits."""
    from omni_rl.storage.checkpoint_sheet import _state_sha256

    def edit(change: Callable[[dict], None]) -> Act:
        def act(sheet: dict) -> None:
            change(sheet["state"])
            sheet["state_sha256"] = _state_sha256(sheet["state"])

        return values(act)

    for name, change in {
        "no iteration": lambda state: state.pop("iteration"),
        "iteration 1": lambda state: state.update(iteration=1),
        "iteration -1": lambda state: state.update(iteration=-1),
        "iteration as text": lambda state: state.update(iteration="2"),
        "another run": lambda state: state.update(run="0123456789abcdef"),
        "another model": lambda state: state.update(model_fingerprint="blake2b:00"),
        "another architecture": lambda state: state.update(architecture="FluxPipeline"),
        "no optimizer": lambda state: state.update(backend={}),
        "trackers as a number": lambda state: state.update(trackers=5),
        "source as a list": lambda state: state.update(source=[1]),
        "configuration as a list": lambda state: state.update(config=[]),
        "row as text": lambda state: state.update(row="x"),
        "rows hash": lambda state: state.update(metrics_sha256="00"),
        "provenance as a list": lambda state: state.update(provenance=[1]),
        "a version of its own": lambda state: state.update(policy_version=7),
    }.items():
        yield Damage(f"state: {name}", f"{NEWEST}/state.json", edit(change))


def inputs() -> Iterator[Damage]:
    """Edited files that the run reads."""
    weights = "text_encoder/model.safetensors"
    yield Damage("another reward", "reward.py", text("/ 255", "/ 300"), shared=True)
    yield Damage("a reward that cannot be read", "reward.py", text("return", "retrun"), shared=True)
    yield Damage("no reward", "reward.py", delete, shared=True)
    yield Damage("another prompt", "prompts.txt", text("snow", "rain"), shared=True)
    yield Damage("a prompt more", "prompts.txt", more(b"fog\n"), shared=True)
    yield Damage("no prompts", "prompts.txt", put(b""), shared=True)
    for share in (0.5, 0.99):
        yield Damage(f"text encoder at {share}", f"model/{weights}", flip(share), shared=True)
        yield Damage(f"VAE at {share}", "model/vae/diffusion_pytorch_model.safetensors", flip(share), shared=True)
    yield Damage("huge header in the model", f"model/{weights}", huge_header, shared=True)
    yield Damage("a pickle in the model", f"model/{weights}", pickled, shared=True)
    yield Damage("pickles beside the model's", f"model/{weights}", also_pickled, shared=True)
    yield Damage("scheduler's settings", "model/scheduler/scheduler_config.json", more(b" "), shared=True)
