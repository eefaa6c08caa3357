"""Configurations that would never end, never fit, or mean nothing to a number of 32 bits."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.overrides import parse_override
from omni_rl.config.problems import validate
from omni_rl.config.yaml_file import parse, read
from omni_rl.contracts.schema import Config
from omni_rl.errors import ConfigError

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
BOMBS = {
    "aliases": (ALIASES, "more than 5000 values"),
    "deep": ("a: " + "[" * 900 + "]" * 900, "nested more than 50 deep"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(900)), "nested more than 50 deep"),
    "keys": ("\n".join(f"k{i}: 1" for i in range(100_000)), "more than 5000 values"),
    "digits": ("a: " + "9" * 5000, "5000 digits"),
    "hex": ("a: 0x" + "f" * 5000, "digits"),
    "NUL": ('a: "\\0"', "U+0000"),
    "surrogate": ('a: "\\ud800"', "U+D800"),
    "itself": ("a: &a [*a]", "contains itself"),
}


@pytest.mark.parametrize(("text", "says"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once(text: str, says: str):
    start = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        parse(text, "run.yaml")
    assert says in str(raised.value)
    assert time.monotonic() - start < 10
    assert len(str(raised.value)) < 4000


def test_merges_of_merges_end_soon():
    """Eight levels would merge 9 ** 8 times. Releases of PyYAML differ in how many keys they keep on the way."""
    start = time.monotonic()
    with contextlib.suppress(ConfigError):
        assert parse(MERGES, "run.yaml")[0]["a8"] == {"k": 1}
    assert time.monotonic() - start < 10


def test_a_large_file_is_not_parsed(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("# " + "x" * 2**20)
    with pytest.raises(ConfigError, match="larger than 256 kB"):
        read(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["a\0=1", "a.b" + ".c" * 1000 + "=1", "train.lr=" + "9" * 5000, "a²=" + "x" * 10**6])
def test_an_override_without_measure(text: str):
    with pytest.raises(ConfigError) as raised:
        parse_override(text)
    assert len(str(raised.value)) < 4000


VALID = {"model": {"path": "m"}, "algorithm": {"name": "a"}, "reward": "r", "data": {"path": "p.txt"}}


def errors(**sections: object) -> str:
    tree = Tree(SetBy("given", "given"))
    tree.overlay({**VALID, **sections}, tree.source)
    return "\n".join(str(error) for error in validate(Config, tree.data, tree)[1])


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "betas", [1, 1]),
        ("train", "betas", [0.9, -0.1]),
        ("train", "lr", 1e300),
        pytest.param("train", "iterations", 10**5000, id="5001 digits"),
        ("rollout", "group_size", 2**63),
        ("rollout", "steps", 10**7),
        ("algorithm", "clip_range", 1e308),
        ("algorithm", "anything", 2**64),
        ("validation", "seed", 2**64),
    ],
)
def test_a_number_out_of_range(section: str, key: str, value: object):
    base = VALID.get(section, {})
    text = errors(**{section: {**(base if isinstance(base, dict) else {}), key: value}})
    assert f"{section}.{key}" in text
    assert "takes" in text
    assert len(text) < 1000


@pytest.mark.parametrize("seed", [2**63, -(2**64), 10**5000], ids=["above", "below", "5001 digits"])
def test_a_seed_outside_64_bits(seed: int):
    assert "seed takes" in errors(seed=seed)


def test_usual_numbers_are_taken():
    assert errors(seed=2**63 - 1, train={"betas": [0.0, 0.999], "lr": 0, "max_grad_norm": 1e12}) == ""


@pytest.mark.parametrize(
    ("section", "key", "says"),
    [
        ("train", "gradient_accumulation_steps", "derived from train.mini_batch_prompts"),
        ("train", "optimizer", "the optimizer is AdamW"),
        ("train", "lr_scheduler", "constant after train.warmup"),
        ("rollout", "sigmas", "cannot be given"),
        ("model", "variant", "variant='fp16'"),
        ("model", "adapter", "fuse_lora"),
        ("rollout", "guidance_scale", "rollout.call.guidance_scale"),
        ("data", "glob", "one file"),
    ],
)
def test_a_key_of_another_trainer_gets_its_answer(section: str, key: str, says: str):
    from omni_rl.config.problems import unknown_key

    text = str(unknown_key(Tree(SetBy("given", "given")), (section, key), ["gradient_checkpointing", "compile"]))
    assert says in text
    assert "Did you mean" not in text


def test_rslora_and_dropout_are_answered():
    assert "sqrt(rank)" in errors(model={"path": "m", "lora": {"use_rslora": True}})
    assert "no dropout" in errors(model={"path": "m", "lora": {"dropout": 0.1}})


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"data": {"path": "p.txt", "format": ""}}, "data.format"),
        ({"model": {"path": "m", "plugin": ""}}, "model.plugin"),
        ({"model": {"path": "m", "lora": {"rank": 1_000_000}}}, "model.lora.rank"),
        ({"model": {"path": "m", "lora": {"targets": [""]}}}, "model.lora.targets"),
    ],
)
def test_names_of_nothing_and_ranks_of_no_module(data: dict[str, object], key: str):
    base = {"model": {"path": "m"}, "algorithm": {"name": "a"}, "reward": ["brightness"], "data": {"path": "p.txt"}}
    tree = Tree(SetBy("file", "run.yaml", by="file"))
    tree.overlay({**base, **data}, lambda _: SetBy("file", "run.yaml", by="file"))
    _, errors = validate(Config, tree.data, tree)
    assert any(key in str(error) for error in errors), errors
