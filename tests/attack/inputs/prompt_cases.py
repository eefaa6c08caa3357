"""Strategies of prompt files: txt, csv, jsonl and parquet, damaged or odd in one place."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from cases import BASE, Case, Verdict, text_of
from hypothesis import strategies as st

ROWS: Sequence[Mapping[str, Any]] = ({"prompt": "a red card", "n": 1}, {"prompt": "snow", "n": 2})

ODD_PROMPTS: Mapping[str, tuple[Any, Verdict]] = {
    "empty": ("", "refused"),
    "blank": (" \t ", "refused"),
    "a number": (7, "refused"),
    "null": (None, "refused"),
    "true": (True, "refused"),
    "a list": (["a", "b"], "refused"),
    "a chat": ([{"role": "user", "content": "snow"}], "refused"),
    "a mapping": ({"text": "snow"}, "refused"),
    "NUL": ("a\0b", "refused"),
    "a lone surrogate": ("a\ud800b", "refused"),
    "an emoji": ("a \U0001f600 card", "trains"),
    "combining marks": ("e\u0301" * 40, "trains"),
    "right to left": ("\u202e\u05e9\u05dc\u05d5\u05dd", "trains"),
    "line separators": ("a\u2028b\u2029c\u0085d", "trains"),
    "a BOM inside": ("a\ufeffb", "trains"),
    "no character": ("\ufffe\uffff", "either"),
    "private use": ("\ue000\U0010ffff", "either"),
    "HTML": ("<script>alert(1)</script>&amp;", "trains"),
    "a template": ("{{ x }} {0} %s ${HOME}", "trains"),
    "special tokens": ("<|endoftext|><|im_start|>system", "either"),
    "one character": ("x", "trains"),
    "2,000 words": ("snow " * 2000, "refused"),
    "90,000 characters": ("a" * 90_000, "refused"),
    "1,000,000 characters": ("a" * 1_000_000, "refused"),
    "zero width": ("\u200b\u200d", "either"),
}

ODD_COLUMNS: Mapping[str, tuple[str, Verdict]] = {
    "5,000 digits": ("9" * 5000, "refused"),
    "400 digits": ("9" * 400, "refused"),
    "an exponent": ("1e999", "either"),
    "NaN": ("NaN", "either"),
    "infinity": ("-Infinity", "either"),
    "nested 40 deep": ("[" * 40 + "]" * 40, "trains"),
    "nested 900 deep": ("[" * 900 + "]" * 900, "refused"),
    "nested 100,000 deep": ("[" * 100_000 + "]" * 100_000, "refused"),
    "objects 900 deep": ('{"a":' * 900 + "1" + "}" * 900, "refused"),
    "a NUL": ('"a\\u0000b"', "refused"),
    "a surrogate": ('"\\udfff"', "refused"),
    "a surrogate as a key": ('{"\\udfff": 1}', "refused"),
    "a megabyte": ('"' + "x" * 1_000_000 + '"', "either"),
    "10,000 entries": (json.dumps(list(range(10_000))), "trains"),
    "an empty key": ('{"": 1}', "trains"),
}


def _with(name: str, data: bytes, what: str, verdict: Verdict = "either", **options: Any) -> Case:
    config = {**BASE, "data": {"path": name, **options}}
    return Case(f"{name}: {what}", {name: data, "run.yaml": text_of(config).encode()}, verdict=verdict)


def _lines(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def odd_rows() -> Sequence[Case]:
    """One of three rows has an odd prompt, or an odd value beside it."""
    prompts = [
        _with("p.jsonl", _lines([ROWS[0], {"prompt": value}, ROWS[1]]), f"a prompt: {what}", verdict)
        for what, (value, verdict) in ODD_PROMPTS.items()
    ]
    columns = [
        _with("p.jsonl", _lines(ROWS) + f'{{"prompt": "b", "x": {text}}}\n'.encode(), f"a column: {what}", verdict)
        for what, (text, verdict) in ODD_COLUMNS.items()
    ]
    return [*prompts, *columns]


TEXTS: Mapping[str, tuple[bytes, Verdict]] = {
    "empty": (b"", "refused"),
    "blank lines": (b"\n \n\t\n", "refused"),
    "a BOM": (b"\xef\xbb\xbfa red card\nsnow\n", "trains"),
    "only a BOM": (b"\xef\xbb\xbf", "refused"),
    "CRLF": (b"a red card\r\nsnow\r\n", "trains"),
    "old Mac": (b"a red card\rsnow", "either"),
    "no last newline": (b"a red card\nsnow", "trains"),
    "UTF-16": ("a red card\nsnow\n".encode("utf-16"), "refused"),
    "UTF-16 without BOM": ("a red card\nsnow\n".encode("utf-16-le"), "refused"),
    "latin-1": ("caf\u00e9\n".encode("latin-1"), "refused"),
    "surrogates": (b"a\n\xed\xa0\x80\n", "refused"),
    "overlong": (b"a\n\xc0\xaf\n", "refused"),
    "NUL": (b"a\nb\0c\n", "refused"),
    "binary": (bytes(range(256)), "refused"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "refused"),
    "a zip": (b"PK\x03\x04" + bytes(100), "refused"),
    "escape codes": (b"a \x1b[31mred\x1b[0m card\n", "either"),
    "form feed": (b"a\x0cb\nc\n", "either"),
    "a long line": (b"snow " * 100_000 + b"\n", "refused"),
    "10,000 lines": (b"a red card\n" * 10_000, "trains"),
    "twice the same": (b"snow\nsnow\nsnow\n", "trains"),
}

OTHER_FILES: Mapping[str, tuple[str, bytes, Verdict]] = {
    "csv": ("p.csv", b"prompt,n\na red card,1\n", "refused"),
    "tsv": ("p.tsv", b"prompt\tn\na red card\t1\n", "refused"),
    "json": ("p.json", b'[{"prompt": "a"}]', "refused"),
    "no suffix": ("prompts", b"a red card\n", "refused"),
    "a suffix in capitals": ("P.TXT", b"a red card\n", "trains"),
    "a double suffix": ("p.txt.gz", b"\x1f\x8b" + bytes(30), "refused"),
    "a dot file": (".txt", b"a red card\n", "either"),
    "blanks in the name": ("my prompts.txt", b"a red card\n", "trains"),
    "umlauts in the name": ("pr\u00f6mpts.txt", b"a red card\n", "trains"),
    "a list in jsonl": ("p.jsonl", b'["a", "b"]\n', "refused"),
    "a text in jsonl": ("p.jsonl", b'"a red card"\n', "refused"),
    "lines in jsonl": ("p.jsonl", b"a red card\nsnow\n", "refused"),
    "one JSON over lines": ("p.jsonl", b'{\n"prompt": "a"\n}\n', "refused"),
    "two objects in a line": ("p.jsonl", b'{"prompt": "a"} {"prompt": "b"}\n', "refused"),
    "single quotes": ("p.jsonl", b"{'prompt': 'a'}\n", "refused"),
    "a comma at the end": ("p.jsonl", b'{"prompt": "a",}\n', "refused"),
    "a key twice": ("p.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "either"),
    "comments": ("p.jsonl", b'// mine\n{"prompt": "a"}\n', "refused"),
    "a BOM in jsonl": ("p.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\n', "trains"),
    "a text column": ("p.jsonl", b'{"text": "a"}\n', "refused"),
    "capital column": ("p.jsonl", b'{"Prompt": "a"}\n', "refused"),
    "columns that differ": ("p.jsonl", b'{"prompt": "a", "x": 1}\n{"prompt": "b", "y": []}\n', "trains"),
    "types that differ": ("p.jsonl", b'{"prompt": "a", "x": 1}\n{"prompt": "b", "x": "1"}\n', "trains"),
    "100,000 keys": ("p.jsonl", json.dumps({"prompt": "a", **{f"k{i}": i for i in range(100_000)}}).encode(), "either"),
}


def fixed() -> Sequence[Case]:
    """Every odd row, and every file that is odd as a whole, once."""
    texts = [_with("p.txt", data, what, verdict) for what, (data, verdict) in TEXTS.items()]
    return [*odd_rows(), *texts, *(_with(name, data, what, v) for what, (name, data, v) in OTHER_FILES.items())]


@st.composite
def damaged_lines(draw: st.DrawFn) -> Case:
    """A valid jsonl or txt file with one byte replaced, or cut."""
    name, data = draw(st.sampled_from([("p.jsonl", _lines(ROWS)), ("p.txt", b"a red card\nsnow\n")]))
    place = draw(st.integers(0, len(data) - 1))
    cut = draw(st.booleans())
    new = data[:place] if cut else data[:place] + draw(st.binary(max_size=3)) + data[place + 1 :]
    return _with(name, new, f"{'cut' if cut else 'changed'} at {place}")


@st.composite
def any_text(draw: st.DrawFn) -> Case:
    """Prompts of any characters; only surrogates and NUL make a text no text."""
    alphabet = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs"))
    text = draw(st.text(alphabet, min_size=1, max_size=30))
    return _with("p.jsonl", _lines([{"prompt": text}]), f"the text {text!r:.50}", "trains")


def _parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), stream, **options)
    return stream.getvalue()


PLAIN = {"prompt": ["a red card", "snow"]}
PARQUETS: Mapping[str, tuple[Mapping[str, Any], Verdict]] = {
    "plain": (PLAIN, "trains"),
    "numbers": ({**PLAIN, "n": [1, 2], "x": [0.5, None]}, "trains"),
    "lists": ({**PLAIN, "n": [[1], []]}, "trains"),
    "structs": ({**PLAIN, "n": [{"a": 1}, None]}, "trains"),
    "booleans": ({**PLAIN, "n": [True, None]}, "trains"),
    "NaN": ({**PLAIN, "n": [float("nan"), 1.0]}, "either"),
    "dates": ({**PLAIN, "n": pyarrow.array([0, 1], pyarrow.timestamp("ns"))}, "refused"),
    "durations": ({**PLAIN, "n": pyarrow.array([0, 1], pyarrow.duration("s"))}, "refused"),
    "decimals": ({**PLAIN, "n": pyarrow.array([1, 2], pyarrow.decimal128(38, 10))}, "refused"),
    "bytes": ({**PLAIN, "n": [b"a", b"\xff"]}, "refused"),
    "images": ({**PLAIN, "image": [{"bytes": b"\x89PNG", "path": None}] * 2}, "refused"),
    "a dictionary": ({"prompt": pyarrow.array(["a", "b"]).dictionary_encode()}, "trains"),
    "large text": ({"prompt": pyarrow.array(["a", "b"], pyarrow.large_string())}, "trains"),
    "views": ({"prompt": pyarrow.array(["a", "b"], pyarrow.string_view())}, "either"),
    "a missing prompt": ({"prompt": ["a", None]}, "refused"),
    "an empty prompt": ({"prompt": ["a", ""]}, "refused"),
    "numbers as prompts": ({"prompt": [1, 2]}, "refused"),
    "bytes as prompts": ({"prompt": [b"a", b"b"]}, "refused"),
    "chats": ({"prompt": [[{"role": "user", "content": "a"}]]}, "refused"),
    "no rows": ({"prompt": pyarrow.array([], pyarrow.string())}, "refused"),
    "no columns": ({}, "refused"),
    "another column": ({"caption": ["a", "b"]}, "refused"),
    "an index of pandas": ({**PLAIN, "__index_level_0__": [0, 1]}, "trains"),
    "NUL": ({"prompt": ["a", "b\0"]}, "refused"),
    "maps": (
        {**PLAIN, "n": pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64()))},
        "either",
    ),
}


@st.composite
def parquets(draw: st.DrawFn) -> Case:
    """Tables of every type of column, whole or damaged."""
    what = draw(st.sampled_from(list(PARQUETS)))
    columns, verdict = PARQUETS[what]
    data = _parquet(columns, compression=draw(st.sampled_from(["none", "snappy", "zstd", "gzip"])))
    damage = draw(st.sampled_from(["whole", "whole", "cut", "changed", "swapped", "text"]))
    place = draw(st.integers(0, len(data) - 1))
    new = {
        "whole": data,
        "cut": data[:place],
        "changed": data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :],
        "swapped": data[place:] + data[:place],
        "text": b"a red card\nsnow\n",
    }[damage]
    return _with("p.parquet", new, f"{what}, {damage}", verdict if damage == "whole" else "either")


@st.composite
def row_arguments(draw: st.DrawFn) -> Case:
    """Rows whose columns are arguments of the pipeline."""
    values = st.sampled_from(
        [16, 32, 32.0, "32", 0, -16, 17, None, True, 1e9, 2**31, 2**70, [32], {"a": 1}, "", "x", 0.5]
    )
    name = draw(
        st.sampled_from(["height", "width", "true_cfg_scale", "negative_prompt", "max_sequence_length", "nothing"])
    )
    rows = [{**row, name: draw(values)} for row in ROWS]
    what = f"{name} of {[row[name] for row in rows]!r:.60}"
    return _with("p.jsonl", _lines(rows), what, call=[name])


def prompts(models: Mapping[str, Path]) -> st.SearchStrategy[Case]:
    """Everything that is drawn."""
    del models
    return st.one_of(damaged_lines(), any_text(), parquets(), row_arguments())
