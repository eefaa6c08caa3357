"""Notice that a tokenizer cuts a prompt, whoever calls it: a pipeline's own ``encode_prompt`` or a plugin's hook.

Pipelines pass ``truncation=True`` and never say that words were lost; a sample of a cut prompt is then rewarded for
words that its model never saw. While calls are recorded, each of a tokenizer's calls is compared with the number of
tokens that its text has without truncation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import DataError
from omni_rl.model.boundary import foreign

UNLIMITED = 2**62
HINT = "shorten the prompt, or set rollout.call.max_sequence_length, if the pipeline has this argument and allows more"


@dataclass(frozen=True)
class TokenizerCall:
    """A call that may have cut its texts.

    Attributes:
        name: the pipeline's component.
        texts: with the pipeline's template.
        limit: the number of tokens that the call keeps of each text; ``UNLIMITED`` where it does not truncate.
        special: whether special tokens are added, and count.
    """

    name: str
    tokenizer: Any
    texts: Sequence[str]
    limit: int
    special: bool

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without truncation."""
        options = {"add_special_tokens": self.special, "truncation": False, "padding": False, "verbose": False}
        with foreign(f"the pipeline's {self.name} cannot tokenise texts", "check its files in the model folder"):
            return [len(ids) for ids in self.tokenizer(list(texts), **options)["input_ids"]]


@dataclass
class Recorder:
    """The calls of one encoding; ``paused`` while texts are encoded that no user wrote."""

    calls: list[TokenizerCall] = field(default_factory=list)
    paused: bool = False

    def add(self, name: str, tokenizer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Keep a call with texts."""
        text = args[0] if args else kwargs.get("text")
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if self.paused or not texts or not all(isinstance(t, str) for t in texts):
            return
        truncates = kwargs.get("truncation") not in (None, False, "do_not_truncate")
        limit = (kwargs.get("max_length") or tokenizer.model_max_length) if truncates else UNLIMITED
        self.calls.append(TokenizerCall(name, tokenizer, texts, int(limit), kwargs.get("add_special_tokens", True)))


_RECORDERS: list[Recorder] = []


def tokenizers_of(model: LoadedModel) -> dict[str, Any]:
    """The pipeline's tokenizers by the names of its components; a processor holds one."""
    parts = {name: getattr(part, "tokenizer", part) for name, part in model.pipe.components.items()}
    return {name: part for name, part in parts.items() if isinstance(part, PreTrainedTokenizerBase)}


@contextlib.contextmanager
def recording(model: LoadedModel) -> Iterator[Recorder]:
    """Record the calls of the pipeline's tokenizers within the context.

    Python looks ``__call__`` up in the class, so each tokenizer is of a subclass of its own class for the while.
    """
    recorder = Recorder()
    with contextlib.ExitStack() as stack:
        for name, tokenizer in tokenizers_of(model).items():
            stack.callback(setattr, tokenizer, "__class__", type(tokenizer))
            tokenizer.__class__ = _recorded(name, type(tokenizer), recorder)
        _RECORDERS.append(recorder)
        stack.callback(_RECORDERS.pop)
        yield recorder


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Do not record within the context: the texts are not a user's, and may well be cut."""
    before = [recorder.paused for recorder in _RECORDERS]
    for recorder in _RECORDERS:
        recorder.paused = True
    try:
        yield
    finally:
        for recorder, value in zip(_RECORDERS, before, strict=True):
            recorder.paused = value


def _recorded(name: str, cls: type, recorder: Recorder) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.add(name, self, args, kwargs)
        return cls.__call__(self, *args, **kwargs)

    return type(
        cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    )


@dataclass(frozen=True)
class Cut:
    """A text that is longer than what is kept of it."""

    length: int
    limit: int

    def message(self, kind: str, text: str) -> str:
        """What is said about it; ``kind`` is ``a prompt`` or ``the negative prompt``."""
        kept = f"{kind} has {self.length} tokens, and the pipeline keeps {self.limit} of them"
        return f"{kept}: {text[:60]!r}..."


def cut_texts(calls: Sequence[TokenizerCall], texts: Sequence[str]) -> dict[str, Cut]:
    """Those of ``texts`` that no tokenizer reads whole.

    Some pipelines have a tokenizer for a short summary (CLIP) beside one that reads the whole text (T5): a text is cut
    only where all that were given it have cut it. Some tokenise once more without truncation, to count.
    """
    users = list(dict.fromkeys(texts))
    found: dict[str, dict[str, Cut | None]] = {}
    for call in calls:
        for place, length in zip(_places(call.texts, users), _lengths(call), strict=True):
            if place is not None:
                cut = Cut(length, call.limit) if length > call.limit else None
                by_name = found.setdefault(place, {})
                by_name[call.name] = by_name.get(call.name) or cut
    whole = {text for text, by_name in found.items() if not all(by_name.values())}
    cuts = {text: [cut for cut in by_name.values() if cut] for text, by_name in found.items() if text not in whole}
    return {text: max(each, key=lambda cut: cut.limit) for text, each in cuts.items()}


def refuse_cut_texts(recorder: Recorder, prompts: Sequence[str], negatives: Sequence[str] | None) -> None:
    """Refuse a prompt or negative prompt that no tokenizer of the pipeline reads whole.

    Raises:
        DataError: names the first such text.
    """
    cuts = cut_texts(recorder.calls, [*prompts, *(negatives or ())])
    for text, cut in cuts.items():
        raise DataError(cut.message("a prompt" if text in prompts else "the negative prompt", text), HINT)


def _lengths(call: TokenizerCall) -> list[int]:
    if all(len(text.encode("utf-8", "surrogatepass")) + 8 <= call.limit for text in call.texts):
        return [0] * len(call.texts)  # a token is at least one byte long
    return call.lengths(call.texts)


def _places(texts: Sequence[str], users: Sequence[str]) -> list[str | None]:
    """For each text, the longest text of a user in it, or None. Pipelines change the case and blanks of a text."""
    plain = sorted(((_plain(text), text) for text in users if _plain(text)), key=lambda pair: -len(pair[0]))
    return [next((text for bare, text in plain if bare in _plain(each)), None) for each in texts]


def _plain(text: str) -> str:
    return "".join(text.lower().split())


@dataclass(frozen=True)
class Template:
    """A tokenizer call as it would be for any prompt, found from the call of one known text."""

    call: TokenizerCall
    before: str
    after: str

    def cuts(self, texts: Sequence[str]) -> list[Cut | None]:
        """For each text, how it is cut."""
        full = replace(self.call, texts=[f"{self.before}{text}{self.after}" for text in texts])
        limit = self.call.limit
        return [Cut(length, limit) if length > limit else None for length in _lengths(full)]


def templates(calls: Sequence[TokenizerCall], probe: str) -> list[Template]:
    """The calls that were given ``probe``, a text in lower case without blanks at its ends."""
    found = []
    for call in calls:
        text = next((text for text in call.texts if probe in text.lower()), None)
        if text is not None:
            start = text.lower().index(probe)
            found.append(Template(call, text[:start], text[start + len(probe) :]))
    return found


def cuts_by_templates(found: Sequence[Template], texts: Sequence[str]) -> list[Cut | None]:
    """For each text, how it is cut by all tokenizers; as :func:`cut_texts`, without encoding the texts."""
    by_name: dict[str, list[Cut | None]] = {}
    for template in found:
        before = by_name.get(template.call.name, [None] * len(texts))
        by_name[template.call.name] = [a or b for a, b in zip(before, template.cuts(texts), strict=True)]
    rows = zip(*by_name.values(), strict=True) if by_name else ((None,) for _ in texts)
    return [max(row, key=lambda cut: cut.limit) if all(row) else None for row in map(list, rows)]
