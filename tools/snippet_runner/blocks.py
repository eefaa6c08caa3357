"""The code blocks of a Markdown page, with what is said about them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

NOTE = re.compile(r"<!-- (not run|with): (.+?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence; empty for an indented block.
        title: the file that it is, or None.
        text: its content. line: of the page, from 1, where its content begins.
        skipped: why it is not run, or None. overrides: ``key=value`` that stand in for values in it.
    """

    language: str
    title: str | None
    text: str
    line: int
    skipped: str | None
    overrides: tuple[str, ...]


def blocks_of(text: str) -> list[Block]:
    """Every code block, in order."""
    return list(_blocks(MarkdownIt().parse(text)))


def _blocks(tokens: list[Token]) -> Iterator[Block]:
    note: tuple[str, str] | None = None
    for token in tokens:
        if token.type == "html_block":
            found = NOTE.search(token.content)
            note = None if found is None else (found[1], " ".join(found[2].split()))
        elif token.type in ("fence", "code_block"):
            yield _block(token, note)
            note = None


def _block(token: Token, note: tuple[str, str] | None) -> Block:
    kind, said = note or ("", "")
    language, _, rest = token.info.partition(" ")
    title = re.search(r'title="([^"]+)"', rest)
    assert token.map is not None
    return Block(
        language,
        None if title is None else title[1],
        token.content,
        token.map[0] + 2,
        said if kind == "not run" else None,
        tuple(shlex.split(said)) if kind == "with" else (),
    )


@dataclass(frozen=True)
class Command:
    """A line after ``$``, and the output that the page shows below it."""

    words: str
    shown: str
    line: int


def commands_of(block: Block) -> list[Command]:
    """The commands of a ``console`` block."""
    found: list[tuple[str, list[str], int]] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append((line[2:], [], number))
        elif found and found[-1][0].endswith("\\"):
            words, shown, first = found[-1]
            found[-1] = (words[:-1] + line, shown, first)
        elif found:
            found[-1][1].append(line)
    return [Command(words, "\n".join(shown).strip(), number) for words, shown, number in found]
