"""Data as other tools write them: each gets a refusal that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni_rl.contracts.prompts import PromptSet
from omni_rl.contracts.schema import Data
from omni_rl.data import prompts
from omni_rl.errors import ConfigError, DataError

READERS = {"txt": prompts.read_text, "jsonl": prompts.read_json_lines, "parquet": prompts.read_parquet}


def load(file: Path, **options: object) -> PromptSet:
    return prompts.load(Data(path=str(file), **options), READERS.__getitem__)


def written(tmp_path: Path, **row: object) -> Path:
    file = tmp_path / "p.jsonl"
    file.write_text("\n" + json.dumps({"prompt": "a", **row}) + "\n")
    return file


def test_a_table_is_no_file_of_lines(tmp_path: Path):
    (tmp_path / "p.csv").write_text("prompt\na\n")
    with pytest.raises(ConfigError, match=r"p\.csv is no file of plain lines"):
        load(tmp_path / "p.csv", format="txt")


def test_a_chat_is_no_text(tmp_path: Path):
    with pytest.raises(DataError, match=r"p\.jsonl:2: the prompt .* is a chat"):
        load(written(tmp_path, prompt=[{"role": "user", "content": "a"}]))


def test_an_image_itself_is_no_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"p\.jsonl:2: column 'image' holds images themselves"):
        load(written(tmp_path, image={"bytes": "x", "path": None}), media={"image": "image"})


def test_bytes_in_parquet_are_no_files(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt": ["a"], "image": [{"bytes": b"\x89PNG", "path": None}]})
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match="row 1: column 'image' holds images themselves"):
        load(tmp_path / "p.parquet")


@pytest.mark.parametrize("row", [{"prompt": "a\0b"}, {"note": "\ud800"}, {"n": [{"m": "\0"}]}])
def test_characters_that_other_programs_cannot_hold(tmp_path: Path, row: dict[str, object]):
    with pytest.raises(DataError, match=r"p\.jsonl:2: it contains the character U\+"):
        load(written(tmp_path, **row))


def test_a_prompt_has_a_limit(tmp_path: Path):
    with pytest.raises(DataError, match="the prompt has 100001 characters"):
        load(written(tmp_path, prompt="a" * 100_001))


def test_rows_know_their_lines(tmp_path: Path):
    assert [row.line for row in load(written(tmp_path)).rows] == [2]
