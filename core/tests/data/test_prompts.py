from __future__ import annotations

import datetime
import sys
from collections import Counter
from pathlib import Path

import pytest

from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.schema import Data
from omni_rl.data import prompts
from omni_rl.data.prompts import read_json_lines, read_parquet, read_text
from omni_rl.errors import ConfigError, DataError, PluginError

READERS = {"txt": read_text, "jsonl": read_json_lines, "parquet": read_parquet}


def load(path: Path | str, **keys) -> PromptSet:
    return prompts.load(Data(path=str(path), **keys), READERS.__getitem__)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, columns: dict) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


# --------------------------------------------------------------------------------------------------------------- text


def test_text_is_one_prompt_a_line_and_blank_lines_are_skipped(tmp_path) -> None:
    file = written(tmp_path / "p.txt", "\ufeffa cat\n\n  two dogs \r\n\t\na cat\nno newline at the end")
    assert read_text(file, "prompt") == [PromptRow(p) for p in ("a cat", "two dogs", "a cat", "no newline at the end")]


def test_only_newlines_end_a_line(tmp_path) -> None:
    file = written(tmp_path / "p.txt", "a\u2028b\x0bc\x85d\n")
    assert [row.prompt for row in read_text(file, "prompt")] == ["a\u2028b\x0bc\x85d"]


@pytest.mark.parametrize("content", ["", "\n \n\t\n", "\ufeff"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_an_empty_file(tmp_path, content, suffix) -> None:
    with pytest.raises(DataError, match=rf"p\.{suffix} has no prompts"):
        load(written(tmp_path / f"p.{suffix}", content))


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_file_that_is_not_utf_8_names_the_line(tmp_path, suffix) -> None:
    with pytest.raises(DataError, match=rf"p\.{suffix}:2: not UTF-8"):
        load(written(tmp_path / f"p.{suffix}", b'{"prompt": "a"}\ncaf\xe9\n'))


# --------------------------------------------------------------------------------------------------------- json lines


def test_json_lines_keep_the_other_columns_as_metadata(tmp_path) -> None:
    file = written(
        tmp_path / "p.jsonl", '{"prompt": "caf\u00e9 ", "target": ["a", {"b": null}]}\n\n{"n": 3, "prompt": "x"}\n'
    )
    rows = read_json_lines(file, "prompt")
    assert rows == [PromptRow("caf\u00e9 ", {"target": ["a", {"b": None}]}), PromptRow("x", {"n": 3})]


def test_another_column_may_hold_the_prompt(tmp_path) -> None:
    file = written(tmp_path / "p.jsonl", '{"caption": "a cat", "prompt": 3}\n')
    assert load(file, prompt_column="caption").rows == [PromptRow("a cat", {"prompt": 3})]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"prompt": "a"', "broken JSON at column 15: Expecting ',' delimiter"),
        ("a plain prompt", "broken JSON at column 1: Expecting value"),
        ('"a string"', 'a line must be a JSON object, not "a string"'),
        ('["a", "b"]', 'a line must be a JSON object, not ["a", "b"]'),
        ('{"prompts": "a", "n": 1}', "no column 'prompt'; it has 'prompts', 'n'"),
        ("{}", "no column 'prompt'; it has none"),
        ('{"prompt": 12}', "the prompt in column 'prompt' must be text, not 12"),
        ('{"prompt": null}', "the prompt in column 'prompt' must be text, not null"),
        ('{"prompt": ["a"]}', "the prompt in column 'prompt' must be text, not [\"a\"]"),
        ('{"prompt": "  "}', "the prompt in column 'prompt' is empty"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, what) -> None:
    file = written(tmp_path / "p.jsonl", f'{{"prompt": "fine"}}\n\n{line}\n{{"prompt": "fine"}}\n')
    with pytest.raises(DataError) as caught:
        load(file)
    assert caught.value.what.startswith(f"{file}:3: {what}")


def test_a_missing_column_offers_the_nearest(tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        load(written(tmp_path / "p.jsonl", '{"prompts": "a", "answer": "b"}\n'))
    assert caught.value.hint == "Set `data.prompt_column` to prompts."


# ------------------------------------------------------------------------------------------------------------ parquet


def test_parquet_rows_carry_their_columns(tmp_path) -> None:
    columns = {"n": [1, 2], "prompt": ["a", "b"], "tags": [["x", "y"], None], "box": [{"w": 1.5}, {"w": 2.0}]}
    assert load(parquet(tmp_path / "p.parquet", columns)).rows == [
        PromptRow("a", {"n": 1, "tags": ["x", "y"], "box": {"w": 1.5}}),
        PromptRow("b", {"n": 2, "tags": None, "box": {"w": 2.0}}),
    ]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"prompt": ["a", ""]}, "row 2: the prompt in column 'prompt' is empty"),
        ({"prompt": ["a", None]}, "row 2: the prompt in column 'prompt' must be text, not null"),
        ({"text": ["a"]}, "row 1: no column 'prompt'; it has 'text'"),
        ({"prompt": ["a"], "image": [b"\x89PNG"]}, "row 1: JSON cannot represent the type of column 'image', bytes"),
        (
            {"prompt": ["a"], "day": [datetime.date(2020, 2, 2)]},
            "row 1: JSON cannot represent the type of column 'day', date",
        ),
    ],
)
def test_a_bad_parquet_row_is_named(tmp_path, columns, what) -> None:
    file = parquet(tmp_path / "p.parquet", columns)
    with pytest.raises(DataError) as caught:
        load(file)
    assert caught.value.what.startswith(f"{file}: {what}")


def test_an_empty_parquet_table(tmp_path) -> None:
    with pytest.raises(DataError, match="has no prompts"):
        load(parquet(tmp_path / "p.parquet", {"prompt": []}))


def test_a_file_that_is_no_parquet(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        load(written(tmp_path / "p.parquet", "prompt\na cat\n"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # how the import system spells "not installed"
    with pytest.raises(PluginError) as caught:
        load(written(tmp_path / "p.parquet", "PAR1"))
    assert caught.value.hint == "pip install 'omni-rl[parquet]'"


# --------------------------------------------------------------------------------------------------------------- load


def test_the_format_follows_from_the_suffix_or_is_given(tmp_path) -> None:
    assert load(written(tmp_path / "P.TXT", '{"prompt": "a"}')).rows == [PromptRow('{"prompt": "a"}')]
    assert load(tmp_path / "P.TXT", format="jsonl").rows == [PromptRow("a")]


def test_a_format_of_a_plugin_reads_the_path_its_own_way(tmp_path) -> None:
    def read_folder(path: Path, prompt_column: str) -> list[PromptRow]:
        return [PromptRow(file.stem, {prompt_column: file.name}) for file in sorted(path.iterdir())]

    written(tmp_path / "a cat.png", b"")
    found = prompts.load(Data(path=str(tmp_path), format="folder", prompt_column="file"), {"folder": read_folder}.get)
    assert found.rows == [PromptRow("a cat", {"file": "a cat.png"})]


@pytest.mark.parametrize(
    ("answer", "error", "what"), [([], DataError, "has no prompts"), (["a"], PluginError, "a str, not a PromptRow")]
)
def test_what_a_plugins_format_answers_is_checked(tmp_path, answer, error, what) -> None:
    with pytest.raises(error, match=what):
        prompts.load(Data(path=str(tmp_path), format="odd"), lambda name: lambda path, column: answer)


def test_no_suffix_and_no_format(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no suffix.*\n.*data\.format"):
        load(written(tmp_path / "prompts", "a"))


def test_a_missing_file_names_its_neighbour(tmp_path) -> None:
    written(tmp_path / "train.txt", "a")
    with pytest.raises(DataError, match=r"trian\.txt does not exist\. Did you mean 'train\.txt'"):
        load(tmp_path / "trian.txt")
    with pytest.raises(DataError, match=r"nowhere/train\.txt does not exist\.\n"):
        load(tmp_path / "nowhere" / "train.txt")


def test_a_folder_is_no_prompt_file(tmp_path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path, format="txt")


def test_an_unknown_key_names_the_nearest(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key `data\.promt_column`\. Did you mean 'prompt_column'"):
        load(written(tmp_path / "p.txt", "a"), promt_column="caption")


# -------------------------------------------------------------------------------------------------------------- order


def prompt_set(n: int) -> PromptSet:
    return PromptSet([PromptRow(f"prompt {i}") for i in range(n)])


def indices(prompts: PromptSet, iteration: int, n: int, seed: int = 0, shuffle: bool = True) -> list[int]:
    picked = prompts.for_iteration(iteration, n, seed, shuffle)
    assert all(prompts.rows[index] is row for index, row in picked)
    return [index for index, _ in picked]


def test_without_shuffling_rows_come_in_file_order_and_wrap() -> None:
    prompts = prompt_set(5)
    assert [indices(prompts, i, 3, shuffle=False) for i in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]


@pytest.mark.parametrize(("rows", "n"), [(7, 3), (8, 4), (3, 7), (5, 5), (1, 4), (4, 9)])
def test_every_row_is_used_equally_often(rows, n) -> None:
    prompts, uses = prompt_set(rows), Counter(dict.fromkeys(range(rows), 0))
    for iteration in range(rows):
        uses.update(indices(prompts, iteration, n))
        assert max(uses.values()) - min(uses.values()) <= 1
    assert set(uses.values()) == {n}


def test_an_epoch_is_one_permutation_whatever_the_iterations_length() -> None:
    prompts = prompt_set(12)
    stream = [index for i in range(12) for index in indices(prompts, i, 3, seed=5)]
    for n in (1, 4, 5, 12, 30):
        longer = [index for i in range(36 // n + 1) for index in indices(prompts, i, n, seed=5)]
        assert longer[:36] == stream
    first, second = stream[:12], stream[12:24]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != sorted(first)


def test_an_iterations_rows_follow_from_its_number_alone() -> None:
    forwards = [indices(prompt_set(11), i, 4, seed=3) for i in range(10)]
    resumed = prompt_set(11)
    assert [indices(resumed, i, 4, seed=3) for i in reversed(range(10))] == forwards[::-1]
    assert forwards != [indices(resumed, i, 4, seed=4) for i in range(10)]


def test_the_order_is_the_same_in_every_release() -> None:
    """Written down once: a resumed run must find the order in which it was started, under any numpy."""
    assert indices(prompt_set(8), 0, 8, seed=0) == [1, 7, 6, 5, 4, 3, 0, 2]


def test_permutations_are_uniform() -> None:
    """Each of the 6 orders of 3 rows equally often: chi-square with 5 degrees of freedom, 0.1 % quantile 20.5."""
    prompts, n = prompt_set(3), 3000
    seen = Counter(tuple(indices(prompts, epoch, 3)) for epoch in range(n))
    assert len(seen) == 6
    assert sum((count - n / 6) ** 2 / (n / 6) for count in seen.values()) < 20.5


def test_rows_of_equal_text_stay_separate() -> None:
    prompts = PromptSet([PromptRow("a", {"target": i}) for i in range(4)])
    picked = prompts.for_iteration(0, 4, 0, True)
    assert sorted(row.metadata["target"] for _, row in picked) == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------- arguments for the pipeline


def test_columns_that_are_arguments_of_the_pipeline(tmp_path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    file = written(
        tmp_path / "p.jsonl",
        '{"prompt": "x", "source": "a.png", "height": 16}\n'
        '{"prompt": "y", "source": ["a.png", "b.png"], "height": 8}\n',
    )
    first, second = load(file, media={"image": "source"}, call=["height"]).rows
    assert first.media == {"image": str((tmp_path / "a.png").resolve())}
    assert second.media == {"image": [str((tmp_path / n).resolve()) for n in ("a.png", "b.png")]}
    assert [first.call, second.call] == [{"height": 16}, {"height": 8}]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"prompt": "x", "sorce": "a.png"}', r"p\.jsonl:1: no column 'source'; it has 'sorce'.* Did you mean"),
        ('{"prompt": "x", "source": "c.png"}', r"p\.jsonl:1: .*c\.png does not exist"),
        ('{"prompt": "x", "source": 3}', r"p\.jsonl:1: column 'source' must hold a path or a list of paths, not 3"),
        ('{"prompt": "x", "source": []}', r"must hold a path or a list of paths, not \[\]"),
    ],
)
def test_media_that_are_not_there(tmp_path, row, sentence) -> None:
    with pytest.raises(DataError, match=sentence):
        load(written(tmp_path / "p.jsonl", row + "\n"), media={"image": "source"})
