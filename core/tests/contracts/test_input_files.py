"""Files that a user names: regular files of a sensible size only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omni_rl.contracts.input_files import DEPTH, exists, flaw, is_file, is_folder, names_in, parse_json, read_regular
from omni_rl.errors import LENGTH, LINES, ConfigError, DataError, RunError, UserError


@pytest.mark.parametrize(
    ("name", "kind"), [("pipe", "a named pipe"), ("folder", "a folder"), ("/dev/zero", "a device")]
)
def test_only_regular_files_are_read(tmp_path: Path, name: str, kind: str):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=kind):
        read_regular(tmp_path / name, 100)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 2049)
    assert len(read_regular(tmp_path / "a", 2049)) == 2049
    with pytest.raises(ConfigError, match="larger than 2 kB"):
        read_regular(tmp_path / "a", 2048, ConfigError)


def test_a_name_that_is_none(tmp_path: Path):
    for name in ("absent", "x" * 5000, "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            read_regular(tmp_path / name, 10)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{"])
def test_json_that_is_none(text: str):
    with pytest.raises(ValueError, match=r"deep|digits|Expecting"):
        parse_json(text)


def test_what_is_unfit_for_other_programs():
    deep: object = "a"
    for _ in range(DEPTH + 1):
        deep = [deep]
    assert flaw({"a": ["b", 1, None]}) is None
    assert flaw(["a\0"]) == "the character U+0000"
    assert flaw({"\ud800": 1}) == "the character U+D800"
    assert "nested" in str(flaw(deep))


def test_a_message_fits_on_a_screen_whatever_it_echoes():
    error = UserError("x" * 1_000_000 + "\n" * 1000 + "\x1b[31m\0\ud800", "y" * 1_000_000)
    assert len(str(error)) <= 2 * LENGTH
    assert len(UserError("a\n" * 1000).what.splitlines()) <= LINES + 1
    assert UserError("\x1b[31m\0\ud800").what == "\\x1b[31m\\x00\\ud800"
    str(error).encode()


def test_a_high_limit_takes_no_memory(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert read_regular(tmp_path / "a", 1 << 60) == b"x" * 3_000_000


@pytest.mark.parametrize("name", ["n" * 5000, "n/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_is_of_no_file(tmp_path: Path, name: str):
    path = tmp_path / name
    assert [exists(path), is_file(path), is_folder(path), names_in(path)] == [False, False, False, []]


def test_names_in_a_folder(tmp_path: Path):
    (tmp_path / "b.txt").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "c").mkdir()
    assert names_in(tmp_path) == ["a.txt", "b.txt"]
    assert names_in(tmp_path, folders=True) == ["c"]


def test_the_hint_of_a_failed_run_is_a_line_of_its_own():
    assert str(RunError("the disk is full", "delete something")) == "the disk is full\n  delete something"
    assert len(str(RunError("x\n" * 10**5))) < LENGTH
