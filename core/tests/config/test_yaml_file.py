"""Files become data with places, and broken ones become messages."""

from __future__ import annotations

import math
from textwrap import dedent

import pytest
import yaml

from omni_rl.config.yaml_file import AmbiguousWord, Dumper, parse, read
from omni_rl.errors import ConfigError


def value_of(text):
    return parse(f"key: {text}\n", "c.yaml")[0]["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E6", 1e6),
        ("3.", 3.0),
        (".5", 0.5),
        ("-2.5e+3", -2500.0),
        ("10_000", 10_000),
        ("1_000.5", 1000.5),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2025-01-01", "2025-01-01"),
        ("1.5.2", "1.5.2"),
        ("1__0", "1__0"),
        ("'1e-3'", "1e-3"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read_back = value_of(text)
    assert read_back == value
    assert type(read_back) is type(value)


@pytest.mark.parametrize("text", ["yes", "no", "on", "OFF", "Yes"])
def test_yes_and_no_stay_text_that_remembers_it_was_plain(text):
    assert value_of(text) == text
    assert isinstance(value_of(text), AmbiguousWord)
    assert type(value_of(f"'{text}'")) is str


def test_keys_are_text():
    assert parse("on: 1\n5: 2\nnull: 3\n", "c.yaml")[0] == {"on": 1, "5": 2, "null": 3}


def test_places_are_those_of_keys_and_items():
    text = dedent("""\
        seed: 1
        reward:
          - name: ocr
            weight: 2
          - {name: other}
        train: {lr: 1, ema: {decay: 0.9}}
        """)
    places = {path: (place.line, place.column) for path, place in parse(text, "c.yaml")[1].items()}
    assert places == {
        ("seed",): (1, 1),
        ("reward",): (2, 1),
        ("reward", 0): (3, 5),
        ("reward", 0, "name"): (3, 5),
        ("reward", 0, "weight"): (4, 5),
        ("reward", 1): (5, 5),
        ("reward", 1, "name"): (5, 6),
        ("train",): (6, 1),
        ("train", "lr"): (6, 9),
        ("train", "ema"): (6, 16),
        ("train", "ema", "decay"): (6, 22),
    }


def test_anchors_and_merge_keys_work_and_the_own_key_wins():
    data, places = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: [*a, {z: 4}]}\n", "c.yaml")
    assert data == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2, "z": 4}}
    assert str(places["b", "x"]) == "c.yaml:2:13"
    assert str(places["b", "y"]) == "c.yaml:1:14"  # where the value that counts is written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nmodel: a: b\n",
            "c.yaml:2:9: this is not valid YAML: mapping values are not allowed here\n"
            "    model: a: b\n"
            "            ^\n"
            "  put text that holds ': ' in quotes",
        ),
        (
            "train:\n\tlr: 1\n",
            "c.yaml:2:1: this is not valid YAML: while scanning for the next token, found character '\\t' that cannot "
            "start any token\n"
            "    \tlr: 1\n"
            "    ^\n"
            "  indent with spaces: YAML does not allow tabs",
        ),
        (
            "seed: 1\ntrain: {lr: 1\n",
            "c.yaml:2:8: this is not valid YAML: while parsing a flow mapping, expected ',' or '}', but got "
            "'<stream end>'\n"
            "    train: {lr: 1\n"
            "           ^",
        ),
        (
            "train:\n  lr: 1\n  seed: 2\n  lr: 3\n",
            "c.yaml:4:3: the key 'train.lr' is also set in line 2; keep one\n      lr: 3\n      ^",
        ),
        ("{a: 1, a: 2}", "c.yaml:1:8: the key 'a' is also set in line 1; keep one\n    {a: 1, a: 2}\n           ^"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "c.yaml:1:4: the tag !!python/object/apply:os.system is not supported\n"
            "    a: !!python/object/apply:os.system [ls]\n"
            "       ^",
        ),
        ("a: !!int x", "c.yaml:1:4: 'x' does not have the type of its tag\n    a: !!int x\n       ^"),
        ("a: &x [*x]", "c.yaml:1:4: an alias (*name) that contains itself\n    a: &x [*x]\n       ^"),
        ("{[1]: 2}", "c.yaml:1:2: a key must be text\n    {[1]: 2}\n     ^"),
        ("a: 1\nb: \x01", "c.yaml:2: the character U+0001 is not allowed in YAML"),
    ],
)
def test_broken_yaml_is_shown_where_it_breaks(text, message):
    with pytest.raises(ConfigError) as error:
        parse(text, "c.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "c.yaml is empty\n  it needs at least the sections model, algorithm, reward and data"),
        (b"# nothing\n", "c.yaml is empty\n  it needs at least the sections model, algorithm, reward and data"),
        (b"- 1\n", "c.yaml has no sections\n  a section looks like this: model: {path: ./my-pipeline}"),
        (b"a: \xff\n", "c.yaml is not UTF-8 text (byte 3)\n  save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read("c.yaml")
    assert str(error.value) == message


def test_a_missing_file_names_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError) as error:
        read("confg.yaml")
    assert str(error.value) == (
        "there is no file confg.yaml (that folder contains config.yaml)\n  give the path of a YAML file"
    )
    with pytest.raises(ConfigError, match=r"^there is no file nowhere/c\.yaml\n"):
        read("nowhere/c.yaml")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, not a regular file"):
        read(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read(tmp_path / "c.yaml").data == {"seed": 1}


TEXTS = [
    "1e-3",
    "no",
    "On",
    "2025-01-01",
    "1:30",
    "0o17",
    "",
    "~",
    "=",
    "<<",
    "a: b",
    "#",
    "two\nlines",
    " ",
    "1_0",
    "é",
]


@pytest.mark.parametrize("value", [*TEXTS, 1e-5, 1e22, -0.0, 5, True, None, math.inf, [1, {"a": []}], {"no": {}}])
def test_what_is_dumped_is_read_back_with_its_type(value):
    text = yaml.dump({"key": value}, Dumper=Dumper, allow_unicode=True)
    read_back = parse(text, "c.yaml")[0]["key"]
    assert read_back == value
    assert type(read_back) is type(value)


@pytest.mark.parametrize("text", TEXTS)
def test_dumped_text_is_text_for_other_yaml_readers_too(text):
    assert yaml.safe_load(yaml.dump({"key": text}, Dumper=Dumper)) == {"key": text}
