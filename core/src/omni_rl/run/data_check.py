"""Checks every row of the prompts before training: no text is cut, and every media file can be decoded.

Texts are only tokenised: one known text is encoded, and from the tokenizers' calls for it follows how many tokens the
pipeline keeps of any other. What was found sound is remembered by the hash of its content, so that the next run starts
at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from omni_rl.contracts.call import call_of_row, frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow
from omni_rl.contracts.schema import Config, Data
from omni_rl.data import media_files
from omni_rl.data.prompts import place
from omni_rl.errors import DataError, UserError
from omni_rl.model import tokenizer_calls
from omni_rl.model.boundary import foreign
from omni_rl.model.encoding import encode_prompts, refuse_unseen_end
from omni_rl.model.tokenizer_calls import TokenizerCall
from omni_rl.run.assembly import Assembly

LISTED = 20
"""At most this many bad rows are listed."""

SAMPLE = 64
"""Rows that ``data.check: sample`` looks at."""

PROMPT = "a prompt"
PROBE = "a probe of the tokenizers"
VERSION = "1"
"""Part of every key of what is remembered; raise it when a check becomes stricter."""

_CHUNK = 256
_EVERY_S = 10.0

Problems = dict[int, str]
"""What is wrong, by the index of the row."""


def check_data(
    model: LoadedModel,
    config: Config,
    fingerprint: str,
    rows: Mapping[str, Sequence[PromptRow]],
    note: Callable[[str], None],
) -> None:
    """Check the rows of each section that ``data.check`` asks for.

    Args:
        fingerprint: identifies the model and its plugins.
        rows: the rows by section: ``data`` and ``validation.data``.
        note: shows a line of progress.

    Raises:
        DataError: lists the bad rows with file and line.
    """
    for name, each in rows.items():
        data: Data = config.data if name == "data" else config.validation.data or config.data
        chosen = _chosen(data.check, len(each))
        calls = [config.rollout.call] if name == "data" else [config.rollout.call, config.validation.call]
        problems = _bad_media(each, chosen, note)
        sound = [index for index in chosen if index not in problems]
        problems |= _cut_texts(model, calls, each, sound, fingerprint)
        _raise(data.path, each, problems, len(chosen))


def check_data_of(parts: Assembly, note: Callable[[str], None] = lambda _: None) -> None:
    """:func:`check_data` for the training and the held-out rows of a run."""
    rows = {"data": parts.prompts.rows, "validation.data": parts.validation_rows}
    key = " ".join([parts.fingerprint, *sorted(layer.source for layer in parts.resolved.layers())])
    check_data(parts.model, parts.config, key, rows, note)


def _chosen(check: str, count: int) -> list[int]:
    """Indices of the rows to look at: all, some at equal distances, or none."""
    if check == "off":
        return []
    if check == "full" or count <= SAMPLE:
        return list(range(count))
    return sorted({round(i * (count - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})


def _raise(path: str, rows: Sequence[PromptRow], problems: Problems, looked_at: int) -> None:
    if not problems:
        return
    places = {index: place(path, rows[index], index + 1) for index in sorted(problems)[:LISTED]}
    lines = [f"{places[index]}: {problems[index]}"[:160] for index in places]
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    many = f"{len(problems)} of {looked_at} rows cannot be used:\n  " if len(problems) > 1 else ""
    hint = "mend or remove these rows; data.check: off trains without this check"
    raise DataError(many + "\n  ".join(lines + more), f"{tokenizer_calls.HINT}\n  {hint}" if _long(problems) else hint)


def _long(problems: Problems) -> bool:
    return any(" tokens, and the pipeline keeps " in what for what in problems.values())


# --------------------------------------------------------------------------------------------------------------- media


def _bad_media(rows: Sequence[PromptRow], chosen: Sequence[int], note: Callable[[str], None]) -> Problems:
    by_row = {index: list(_files(rows[index])) for index in chosen}
    files = sorted({file for each in by_row.values() for file in each})
    if not files:
        return {}
    wrong: dict[str, str] = {}
    shown = monotonic()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoders release Python's lock
        for done, (file, what) in enumerate(zip(files, pool.map(_wrong_with, files), strict=True), 1):
            if what is not None:
                wrong[file] = what
            if monotonic() - shown > _EVERY_S:
                note(f"checking data: {done} of {len(files)} media files")
                shown = monotonic()
    found = {index: [wrong[file] for file in each if file in wrong] for index, each in by_row.items()}
    return {index: each[0] for index, each in found.items() if each}


def _files(row: PromptRow) -> Iterator[str]:
    for value in row.media.values():
        yield from value if isinstance(value, list) else [value]


def _wrong_with(file: str) -> str | None:
    try:
        digest = hashlib.sha256(VERSION.encode())
        with contextlib.suppress(OSError), open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, lambda: digest)
        key = f"media-{digest.hexdigest()}-{Path(file).suffix.lower()}"
        if not _remembered(key):
            media_files.verify(file)
            _remember(key)
    except UserError as error:
        return error.what
    return None


# --------------------------------------------------------------------------------------------------------------- texts


def _cut_texts(
    model: LoadedModel,
    calls: Sequence[Mapping[str, Any]],
    rows: Sequence[PromptRow],
    chosen: Sequence[int],
    fingerprint: str,
) -> Problems:
    """Rows whose prompt or negative prompt the pipeline would cut, or whose tokens a plugin's hook refuses."""
    groups: dict[Any, list[int]] = {}
    arguments: dict[int, tuple[str | None, dict[str, Any]]] = {}
    for index in chosen:
        negative, call = call_of_row(rows[index].call, *calls)
        arguments[index] = negative, call
        groups.setdefault((frozen(_about_text(call)), tuple(sorted(rows[index].media))), []).append(index)
    problems: Problems = {}
    for members in groups.values():
        texts = [(index, PROMPT, rows[index].prompt) for index in members]
        texts += [(i, "the negative prompt", n) for i in members if (n := arguments[i][0]) and n.strip()]
        key = "texts-" + _hash([VERSION, fingerprint, repr(arguments[members[0]][1]), sorted({t for _, _, t in texts})])
        if not _remembered(key):
            first = rows[members[0]]
            found = _bad_texts(model, arguments[members[0]][1], first, texts)
            problems |= found
            if not found:
                _remember(key)
    return problems


def _about_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that may change how a text is tokenised; others differ from row to row."""
    return {name: value for name, value in call.items() if any(word in name for word in ("sequence", "prompt", "text"))}


def _bad_texts(
    model: LoadedModel, call: Mapping[str, Any], row: PromptRow, texts: Sequence[tuple[int, str, str]]
) -> Problems:
    with torch.no_grad(), tokenizer_calls.recording(model) as recorder:
        try:
            given = {**call, **media_files.load(row.media)}
            guided = any(kind != PROMPT for _, kind, _ in texts)
            encode_prompts(model, [PROBE], [PROBE] if guided else None, given)
        except UserError:  # the gate shows what is wrong with this call
            return {}
    templates = tokenizer_calls.templates(recorder.calls, PROBE)
    problems: Problems = {}
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        cuts = tokenizer_calls.cuts_by_templates(templates, [text for _, _, text in part])
        for (index, kind, text), cut in zip(part, cuts, strict=True):
            judged = cut is None and _refusal(model, given, recorder.calls, kind, text, guided)
            what = judged if cut is None else cut.message(kind, text)
            if what:
                problems.setdefault(index, what)
    return problems


def _refusal(
    model: LoadedModel, call: Mapping[str, Any], calls: Sequence[TokenizerCall], kind: str, text: str, guided: bool
) -> str | None:
    """What the model's own hook, or the ends of embeddings, say about one text; None: it is sound."""
    try:
        with torch.no_grad(), foreign(f"{model.architecture} cannot tokenise this text", ""):
            model.hooks.tokenize(model=model, prompts=[text], call=call)
            refuse_unseen_end(model, calls, text, call, kind, guided)
    except UserError as error:
        return error.what
    return None


# ------------------------------------------------------------------------------------------------------- what is known


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-rl" / "data-check"


def _remembered(key: str) -> bool:
    return (_memory() / key).is_file()


def _remember(key: str) -> None:
    """Keep an empty file of this name; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        _memory().mkdir(parents=True, exist_ok=True)
        (_memory() / key).touch()
