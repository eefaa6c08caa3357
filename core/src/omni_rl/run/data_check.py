"""Checks every row of the prompts before training: no text is cut, and every media file can be decoded.

Texts are only tokenised: one known text is encoded, and from the tokenizers' calls for it follows how many tokens the
pipeline keeps of any other. What was found sound is remembered by the hash of its content, so that the next run starts
at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from omni_rl.contracts.call import call_of_row, frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow
from omni_rl.contracts.schema import Config, Data
from omni_rl.data import media_files
from omni_rl.data.file_check import MEND, VERSION, Problems, bad_files, chosen_rows, refuse_rows, remember, remembered
from omni_rl.errors import UserError
from omni_rl.model import tokenizer_calls
from omni_rl.model.boundary import foreign
from omni_rl.model.encoding import encode_prompts, refuse_unseen_end
from omni_rl.model.tokenizer_calls import TokenizerCall
from omni_rl.run.assembly import Assembly
from omni_rl.run.together import on_rank_0, together

PROMPT = "a prompt"
PROBE = "a probe of the tokenizers"
_CHUNK = 256

T = TypeVar("T")


def check_data(
    model: LoadedModel,
    config: Config,
    fingerprint: str,
    rows: Mapping[str, Sequence[PromptRow]],
    note: Callable[[str], None],
) -> None:
    """Check the rows of each section that ``data.check`` asks for. All ranks must call it together.

    Args:
        fingerprint: identifies the model and its plugins.
        rows: the rows by section: ``data`` and ``validation.data``.
        note: shows a line of progress.

    Raises:
        DataError: lists the bad rows with file and line.
    """
    for name, each in rows.items():
        _check_section(model, config, name, each, fingerprint, note)


def _check_section(
    model: LoadedModel,
    config: Config,
    name: str,
    rows: Sequence[PromptRow],
    fingerprint: str,
    note: Callable[[str], None],
) -> None:
    data: Data = config.data if name == "data" else config.validation.data or config.data
    chosen = chosen_rows(data.check, len(rows))
    calls = [config.rollout.call] if name == "data" else [config.rollout.call, config.validation.call]
    files = {index: list(_files(rows[index])) for index in chosen}
    problems = dict(on_rank_0(lambda: _pairs(bad_files(files, note))))
    sound = [index for index in chosen if index not in problems]
    problems |= dict(_where_it_can(model, lambda: _pairs(_cut_texts(model, calls, rows, sound, fingerprint))))
    hint = f"{tokenizer_calls.HINT}\n  {MEND}" if _long(problems) else MEND
    refuse_rows(data.path, rows, problems, len(chosen), hint)


def check_data_of(parts: Assembly, note: Callable[[str], None] = lambda _: None) -> None:
    """:func:`check_data` for the training and the held-out rows of a run."""
    rows = {"data": parts.prompts.rows, "validation.data": parts.validation_rows}
    key = " ".join([parts.fingerprint, *sorted(layer.source for layer in parts.resolved.layers())])
    check_data(parts.model, parts.config, key, rows, note)


def _where_it_can(model: LoadedModel, work: Callable[[], T]) -> T:
    """Do something that encodes a text on rank 0. To find out how, the denoiser may run; if sharded, on all ranks."""
    return together(work) if model.sharded else on_rank_0(work)


def _pairs(problems: Problems) -> list[tuple[int, str]]:
    return list(problems.items())


def _files(row: PromptRow) -> Iterator[str]:
    for value in row.media.values():
        yield from value if isinstance(value, list) else [value]


def _long(problems: Problems) -> bool:
    return any(" tokens, and the pipeline keeps " in what for what in problems.values())


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
        if not _is_known(model, key):
            first = rows[members[0]]
            found = _bad_texts(model, arguments[members[0]][1], first, texts)
            problems |= found
            if not found:
                remember(key)
    return problems


def _is_known(model: LoadedModel, key: str) -> bool:
    """Where all ranks ask, one answers, because another process may write the cache at any time."""
    return on_rank_0(lambda: remembered(key)) if model.sharded else remembered(key)


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
