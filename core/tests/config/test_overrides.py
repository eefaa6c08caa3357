"""``key.sub=value``: what it means, and what happens when it means nothing."""

from __future__ import annotations

import pytest

from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.overrides import apply, apply_all, parse_all, parse_override
from omni_rl.errors import ConfigError

FORM = "\n  write key.sub=value, for example train.lr=1e-3 or reward.0.weight=2"


@pytest.fixture
def tree():
    tree = Tree(SetBy("core", "c.yaml"))
    values = {
        "seed": 1,
        "train": {"lr": 1e-4, "betas": [0.9, 0.99]},
        "reward": [{"name": "a"}, {"name": "b"}],
        "tracker": "board",
    }
    tree.overlay(values, lambda path: SetBy("file", f"c.yaml:{len(path)}"))
    return tree


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.lr=1e-3", ("train", "lr"), 1e-3),
        ("train.lr=3", ("train", "lr"), 3),
        ("train.betas=[0.8, 0.9]", ("train", "betas"), [0.8, 0.9]),
        ("train.ema.decay=0.9", ("train", "ema", "decay"), 0.9),
        ("train={lr: 2}", ("train",), {"lr": 2, "betas": [0.9, 0.99]}),
        ("train.ema=null", ("train", "ema"), None),
        ("reward.1.weight=2", ("reward", 1, "weight"), 2),
        ("reward=c", ("reward",), [{"name": "c"}]),
        ("reward={name: c}", ("reward",), [{"name": "c"}]),
        ("tracker.run=x", ("tracker", 0, "run"), "x"),
        ("data.path = a=b", ("data", "path"), "a=b"),
        ("data.path=''", ("data", "path"), ""),
    ],
)
def test_an_override_sets_what_it_names(tree, text, path, value):
    apply(tree, parse_override(text))
    assert tree.get(path) == value
    assert tree.source(path) == SetBy("override", f"override '{text}'", by="override")


def test_an_override_says_nothing_of_its_neighbours(tree):
    apply(tree, parse_override("train.lr=1"))
    assert tree.get(("train", "betas")) == [0.9, 0.99]
    assert tree.source(("train", "betas")).origin == "file"


def test_the_last_override_wins(tree):
    assert apply_all(tree, parse_all(["seed=2", "seed=3"])[0]) == []
    assert tree.get(("seed",)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr", f"override 'train.lr' is not of the form key.sub=value{FORM}"),
        ("=1", f"override '=1' is not of the form key.sub=value{FORM}"),
        ("--train.lr=1", f"override '--train.lr=1' is not of the form key.sub=value{FORM}"),
        ("reward[0].name=a", f"override 'reward[0].name=a' is not of the form key.sub=value{FORM}"),
        ("train..lr=1", f"override 'train..lr=1' is not of the form key.sub=value{FORM}"),
        (
            "train.lr=",
            "override 'train.lr=' has no value\n  write train.lr=null for null, or \"train.lr=''\" for an empty text",
        ),
        (
            "train.betas=[1",
            "override 'train.betas=[1':1:3: this is not valid YAML: while parsing a flow sequence, expected ',' or "
            "']', but got '<stream end>'\n    [1\n      ^",
        ),
        ("seed.x=1", "override 'seed.x=1': seed is a value and has no key 'x'"),
        ("reward.name=c", f"override 'reward.name=c': reward has 2 entries; give the entry's index (from 0){FORM}"),
        ("reward.2.name=c", f"override 'reward.2.name=c': reward has 2 entries; give the entry's index (from 0){FORM}"),
        (
            "train.betas.x=1",
            f"override 'train.betas.x=1': train.betas has 2 entries; give the entry's index (from 0){FORM}",
        ),
    ],
)
def test_an_override_that_cannot_be_meant(tree, text, message):
    with pytest.raises(ConfigError) as error:
        apply(tree, parse_override(text))
    assert str(error.value) == message


def test_all_malformed_overrides_are_reported():
    good, bad = parse_all(["a", "b=1", "c="])
    assert [override.text for override in good] == ["b=1"]
    assert [str(error).splitlines()[0] for error in bad] == [
        "override 'a' is not of the form key.sub=value",
        "override 'c=' has no value",
    ]
