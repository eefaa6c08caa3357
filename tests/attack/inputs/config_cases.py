"""Strategies of configurations and overrides, nearly all of them one mutation away from a valid one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cases import BASE, Case, text_of
from hypothesis import strategies as st

Path = tuple[str | int, ...]

BOUNDARY = (
    0, 1, 2, 3, -1, -2, 0.5, 1.0, 1.5, -0.0, 1e-9, 1e-300, 5e-324, 1e6, 1e38, 1e39, 1e308, -1e308, 2**15, 2**31 - 1,
    2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**20, 10**39, 10**400, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
WRONG: tuple[Any, ...] = (
    None, True, False, "", " ", "0", "3", "1e-3", "nan", "many", "ja", "\u0130", "\U0001f600", "a\tb", "a\nb",
    "../..", "~", "{}", "null", "%s%n", "${HOME}", "{0.__class__}", "a" * 300, "a" * 100_000, [], [[]], [None],
    [1, 2], [0.9, 0.99, 0.999], ["a"] * 6000, {}, {"": 1}, {"a": {"b": {"c": 1}}}, {"name": "brightness"},
    [{"name": "brightness"}], {"path": "model"},
)  # fmt: skip
FOREIGN = (
    "learning_rate", "gradient_accumulation_steps", "optimizer", "lr_scheduler_type", "num_train_epochs", "max_steps",
    "bf16", "fp16", "seed", "report_to", "output_dir", "per_device_train_batch_size", "beta", "kl_coef", "use_lora",
    "lora_rank", "sampling_steps", "guidance_scale", "resolution", "num_generations", "ppo_epochs", "deepspeed",
    "fsdp", "wandb",
)  # fmt: skip
COSTLY = {
    "steps",
    "prompts",
    "group_size",
    "iterations",
    "samples_per_prompt",
    "inner_epochs",
    "height",
    "width",
    "warmup",
}
"""Keys of which a large value is right and takes hours."""


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all keys and list entries, also of sections."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


def changed(config: Mapping[str, Any], path: Path, change: Callable[[Any], None]) -> dict[str, Any]:
    """A copy, in which ``change`` was called with the container of ``path``."""
    tree = copy.deepcopy(dict(config))
    inner: Any = tree
    for key in path[:-1]:
        inner = inner[key]
    change(inner)
    return tree


def dumped(value: Any) -> str:
    """A value in YAML's flow style, as one types it after ``key=``."""
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return json.dumps(value)


def too_long(path: Path, value: Any) -> bool:
    """Whether training with it would be right, and take hours: it is only resolved."""
    name = str(path[-1])
    if name in ("compile", "process", "hub"):
        return True
    if isinstance(value, (dict, list, tuple)):
        return any(too_long((key,), each) for key, each in value.items()) if isinstance(value, dict) else False
    return name in COSTLY and not isinstance(value, bool) and isinstance(value, (int, float)) and value > 4


def meant(path: Path, value: Any) -> dict[Path, Any]:
    """What the resolved configuration must say, if the value is accepted."""
    if value is None or isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > 200):
        return {}  # null may mean a default, and sections are completed
    if path in (("gate",), ("launcher",), ("reward",), ("tracker",)) or path[-1] in ("path", "file"):
        return {}  # have short forms, and paths become absolute
    return {path: value}


@st.composite
def changed_values(draw: st.DrawFn, resolved: Mapping[str, Any]) -> Case:
    """One value of a complete valid configuration is another one."""
    path = draw(
        st.sampled_from([path for path in leaves(resolved) if path not in (("model", "path"), ("data", "path"))])
    )
    value = draw(st.one_of(st.sampled_from(BOUNDARY), st.sampled_from(WRONG), st.integers(-3, 9), st.floats(0, 1)))
    command = "config" if too_long(path, value) else "train"
    what, takes = f"{'.'.join(map(str, path))} = {value!r:.60}", meant(path, value)
    if draw(st.booleans()):
        text = f"{'.'.join(map(str, path))}={dumped(value)}"
        return (
            Case(f"override {what}", overrides=(text,), takes=takes, command=command)
            if len(text) < 100_000
            else _file(resolved, path, value, what, takes, command)
        )
    return _file(resolved, path, value, what, takes, command)


def _file(config: Any, path: Path, value: Any, what: str, takes: Any, command: Any) -> Case:
    tree = changed(config, path, lambda inner: inner.__setitem__(path[-1], value))
    return Case(what, {"run.yaml": text_of_any(tree).encode("utf-8", "surrogatepass")}, takes=takes, command=command)


def text_of_any(value: Any) -> str:
    """A configuration as flow-style YAML, which can hold any number."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {text_of_any(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of_any, value)) + "]"
    return dumped(value)


@st.composite
def changed_keys(draw: st.DrawFn, resolved: Mapping[str, Any]) -> Case:
    """One key is misspelt, missing, foreign, or of another section."""
    path = draw(st.sampled_from([path for path in leaves(resolved) if isinstance(path[-1], str)]))
    name = str(path[-1])
    kind = draw(st.sampled_from(["misspelt", "missing", "foreign", "moved", "case", "long"]))
    if kind == "missing":
        tree = changed(resolved, path, lambda inner: inner.pop(name))
        command = (
            "config" if name in COSTLY or name in ("train", "rollout", "call") else "train"
        )  # the defaults are large
        return Case(f"without {'.'.join(map(str, path))}", {"run.yaml": text_of(tree).encode()}, command=command)
    place = draw(st.integers(0, len(name) - 1))
    key = {
        "misspelt": name[:place] + draw(st.sampled_from(["", "x", "_", name[place] * 2, "\u00e9"])) + name[place + 1 :],
        "foreign": draw(st.sampled_from(FOREIGN)),
        "moved": draw(st.sampled_from([str(p[-1]) for p in leaves(resolved)])),
        "case": name.upper(),
        "long": name * 500,
    }[kind]
    tree = changed(resolved, path, lambda inner: inner.setdefault(key or "x", 1))
    named = any(part in ("call", "media", "options") for part in path[:-1])
    known = any(path[:-1] == other[:-1] and other[-1] == key for other in leaves(resolved))
    return Case(
        f"{kind} key {key[:40]!r} in {'.'.join(map(str, path[:-1]))}",
        {"run.yaml": text_of(tree).encode()},
        verdict="either" if named or known else "refused",
    )


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def _merges(levels: int) -> str:
    lines = ["m0: &m0 {a: 1}"] + [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


VALID = text_of(BASE)
WHOLE_FILES: Mapping[str, tuple[bytes, Any]] = {
    "nothing": (b"", "refused"),
    "blanks": (b" \n\n", "refused"),
    "a comment": (b"# later\n", "refused"),
    "a list": (b"- a\n- b\n", "refused"),
    "a number": (b"7\n", "refused"),
    "two documents": (VALID.encode() + b"---\n" + VALID.encode(), "refused"),
    "a document's marks": (b"---\n" + VALID.encode() + b"...\n", "trains"),
    "a BOM": (b"\xef\xbb\xbf" + VALID.encode(), "trains"),
    "CRLF": (VALID.replace("\n", "\r\n").encode(), "trains"),
    "UTF-16": (VALID.encode("utf-16"), "refused"),
    "UTF-32": (VALID.encode("utf-32"), "refused"),
    "latin-1": (f"# r\u00e9glages\n{VALID}".encode("latin-1"), "refused"),
    "comments in Chinese": (f"# \u8bad\u7ec3\n{VALID}".encode(), "trains"),
    "NUL": (VALID.encode() + b"\0", "refused"),
    "control characters": (VALID.encode() + b"# \x01\x02\n", "refused"),
    "tabs": (VALID.replace("  ", "\t").encode(), "refused"),
    "a tag": (VALID.encode() + b"name: !!python/object/apply:os.system ['true']\n", "refused"),
    "a tag of its own": (VALID.encode() + b"name: !mine {}\n", "refused"),
    "binary": (bytes(range(256)) * 20, "refused"),
    "an executable": (b"\x7fELF" + bytes(2000), "refused"),
    "an open bracket": (VALID.encode() + b"name: [a, b\n", "refused"),
    "an open quote": (VALID.encode() + b'name: "a\n', "refused"),
    "a lone surrogate": (VALID.encode() + b'name: "\\ud800"\n', "refused"),
    "surrogate bytes": (VALID.encode() + b"name: \xed\xa0\x80\n", "refused"),
    "a recursive alias": (VALID.encode() + b"name: &a [*a]\n", "refused"),
    "an unknown alias": (VALID.encode() + b"name: *nobody\n", "refused"),
    "an alias bomb": (VALID.encode() + _bomb(12, 9).encode(), "refused"),
    "a wide alias bomb": (VALID.encode() + _bomb(3, 3000).encode(), "refused"),
    "a merge bomb": (VALID.encode() + _merges(12).encode(), "refused"),
    "100,000 keys": (VALID.encode() + b"".join(b"k%d: 1\n" % i for i in range(100_000)), "refused"),
    "10,000 keys": (VALID.encode() + b"".join(b"k%d: 1\n" % i for i in range(10_000)), "refused"),
    "deep lists": (VALID.encode() + b"name: " + b"[" * 900 + b"]" * 900, "refused"),
    "deep mappings": (VALID.encode() + b"name: " + b"{a: " * 900 + b"1" + b"}" * 900, "refused"),
    "deep blocks": (VALID.encode() + b"name:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 400)), "refused"),
    "deep dashes": (VALID.encode() + b"name:\n" + b"- " * 900 + b"a\n", "refused"),
    "a key of lists": (VALID.encode() + b"? [a, b]\n: 1\n", "refused"),
    "a key of null": (VALID.encode() + b"~: 1\n", "refused"),
    "a number as a key": (VALID.encode() + b"1: 1\n", "refused"),
    "5,000 digits": (VALID.replace("seed: 3", "seed: " + "9" * 5000).encode(), "refused"),
    "a long line": (VALID.encode() + b"name: " + b"a" * 200_000, "refused"),
    "a megabyte": (VALID.encode() + b"# " + b"a" * 1_000_000, "refused"),
    "JSON": (json.dumps(BASE).encode(), "trains"),
    "pretty JSON": (json.dumps(BASE, indent=2).encode(), "trains"),
    "underscores in numbers": (VALID.replace("seed: 3", "seed: 1_000").encode(), "trains"),
    "anchors": (
        VALID.replace("steps: 2", "steps: &two 2").replace("group_size: 2", "group_size: *two").encode(),
        "trains",
    ),
    "a merge key": (VALID.replace("  lr: 0.001", "  <<: {lr: 0.001}").encode(), "trains"),
    "short forms": (VALID.replace("- name: brightness", "- brightness").encode(), "trains"),
}


def fixed() -> Sequence[Case]:
    """Files that are odd as a whole, and overrides as hands type them, each once."""
    files = [
        Case(f"a file: {what}", {"run.yaml": data}, verdict=verdict) for what, (data, verdict) in WHOLE_FILES.items()
    ]
    return [*files, *(Case(f"typed {text[:60]!r}", overrides=(text,)) for text in TYPED)]


@st.composite
def damaged_files(draw: st.DrawFn) -> Case:
    """A few bytes of the valid file are others: cut, doubled, replaced, or lines in another order."""
    data = bytearray(VALID.encode())
    kind = draw(st.sampled_from(["cut", "byte", "twice", "indent", "line"]))
    place = draw(st.integers(1, len(data) - 1))
    lines = VALID.splitlines(keepends=True)
    row = place * len(lines) // len(data)
    if kind == "cut":
        data = data[:place]
    elif kind == "byte":
        data[place : place + 1] = draw(st.binary(min_size=1, max_size=3))
    else:
        new = {"twice": lines[row] * 2, "indent": f" {lines[row]}", "line": ""}[kind]
        data = bytearray("".join([*lines[:row], new, *lines[row + 1 :]]).encode())
    return Case(f"{kind} at {place}", {"run.yaml": bytes(data)}, command="config")


@st.composite
def reordered(draw: st.DrawFn, resolved: Mapping[str, Any]) -> Case:
    """The same configuration with its sections in another order, in block or flow style."""
    order = draw(st.permutations(list(resolved)))
    tree = {key: resolved[key] for key in order}
    style = draw(st.sampled_from([text_of, text_of_any]))
    return Case(f"order {order[:3]}", {"run.yaml": style(tree).encode()}, verdict="trains")


TYPED = (
    "", "=", "=1", "train.lr", "train.lr=", "train.lr=1=2", "train..lr=1", ".train.lr=1", "train.lr.=1",
    "train.lr.x=1", "reward.9.weight=1", "reward.-1.weight=1", "reward.0=1", "reward.name=1", "reward.x.weight=2",
    "train=1", "train=null", "model=null", "data=null", "rollout.call=null", "rollout.call.height=null",
    "rollout.call=[1]", "train.lr=[", "train.lr=}", "train.lr=&a *a", "train.lr=!!int 3", "train.lr=: :",
    "train.betas=[1,1]", "train.betas.0=0.5", "train.betas.7=0.5", "seed=\ud800", "seed=\x00", "se\u00e9d=1",
    "\u202eseed=1", "seed=" + "9" * 5000, "seed=" + "[" * 900, "a." * 300 + "b=1", "k" * 20_000 + "=1",
    "train.lr=" + "x" * 50_000, "--config=1", "-x", "train.lr = 1e-3", "TRAIN.LR=1e-3", "train.lr=1,5",
    "train.lr=1e-3 # small", "train.lr='1e-3'", "train.iterations=1e0", "train.iterations=0x1",
    "train.iterations=1.0", "gate=on", "gate=True", "gate=yes", "gate=off", "device=cuda:7", "device=tpu",
    "device=cuda:-1", "precision=fp16", "reward=brightness", "reward=[]", "reward=[brightness, brightness]",
    "tracker=null", "tracker=nobody", "launcher=local", "launcher=ray", "plugins=[x.py]", "plugins=[run.yaml]",
    "plugins=[/dev/zero]", "model.path=/dev/zero", "data.path=/dev/zero", "data.path=.", "data.path=/proc/self/mem",
    "model.path=run.yaml", "model.path=.", "model.path=..", "model.path='a\\0b'", "data.path='a\\0b'",
    "model.path=" + "m" * 5000, "data.path=" + "p" * 5000, "data.path=" + "p/" * 3000, "model.lora={}",
    "model.lora.rank=1000000", "model.lora={rank: 0}", "model.lora={targets: []}", "model.lora={targets: ['']}",
    "model.lora={targets: nothing}", "model.lora={targets: ['(']}", "data.format=exe", "data.format=''",
    "data.prompt_column=''", "data.media={image: x}", "data.call=[height]", "data.call=['']", "rollout.engine=vllm",
    "train.backend=fsdp", "rollout.call={height: 16, width: 16}", "rollout.call.prompt=x",
    "rollout.call.num_inference_steps=3", "rollout.call.negative_prompt=bad", "rollout.call.latents=1",
    "rollout.call.true_cfg_scale=2.0", "rollout.call.height=1e3", "rollout.call.height=16.0",
    "rollout.call.height='32'", "rollout.call.output_type=pil", "rollout.call.generator=1",
    "rollout.call.sigmas=[1, .5]", "rollout.call.callback=x", "rollout.call.num_images_per_prompt=2",
    "rollout.call.max_sequence_length=4", "rollout.call.max_sequence_length=-1",
)  # fmt: skip


@st.composite
def several(draw: st.DrawFn, resolved: Mapping[str, Any]) -> Case:
    """Two mutations at once, of the file and on the command line."""
    one, two = draw(changed_values(resolved)), draw(changed_values(resolved))
    command = "config" if "config" in (one.command, two.command) else "train"
    return Case(
        f"{one.what} and {two.what}", one.files or two.files, {}, one.overrides or two.overrides, command=command
    )


def configs(resolved: Mapping[str, Any]) -> st.SearchStrategy[Case]:
    """Everything that is drawn; ``resolved`` is a complete valid configuration."""
    often = [changed_values(resolved)] * 6
    return st.one_of(
        *often, changed_keys(resolved), changed_keys(resolved), damaged_files(), reordered(resolved), several(resolved)
    )
