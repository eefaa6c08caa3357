"""Prompts of GenEval (arXiv 2310.11513): each says which objects an image should have, their number, colour and
position.

The format is that of ``evaluation_metadata.jsonl`` in https://github.com/djghosh13/geneval; Flow-GRPO uses it for its
training prompts too. Every line is one scene::

    {"tag": "position", "prompt": "a photo of a cat above a dog",
     "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omni_rl.authoring.data import PromptRow, placed_rows
from omni_rl.errors import DataError

Count = Annotated[int, Field(strict=True, ge=1)]
Index = Annotated[int, Field(strict=True, ge=0)]
Name = Annotated[str, Field(min_length=1)]


class Excluded(BaseModel):
    """Fewer than ``count`` objects of a class."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(alias="class")
    count: Count


class Included(Excluded):
    """At least ``count`` objects of a class; ``position`` is relative to an earlier entry, given by its index."""

    color: Name | None = None
    position: tuple[Literal["left of", "right of", "above", "below"], Index] | None = None


class Scene(BaseModel):
    """The columns other than the prompt, which an evaluation reads."""

    tag: Name
    include: list[Included] = Field(min_length=1)
    exclude: list[Excluded] = Field(default_factory=list)


def read_geneval(path: Path, prompt_column: str) -> list[PromptRow]:
    """Read the format ``geneval``: one scene per line; ``tag``, ``include`` and ``exclude`` become the row's metadata.

    Raises:
        DataError: with file and line, for the errors of ``jsonl`` and for a scene that cannot be evaluated.
    """
    return [_checked(where, row) for where, row in placed_rows(path, prompt_column)]


def _checked(where: str, row: PromptRow) -> PromptRow:
    try:
        scene = Scene.model_validate(row.metadata)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = 'a scene is {"tag": ..., "include": [{"class": ..., "count": ...}], "prompt": ...}'
        raise DataError(f"{where}: {key}: {first['msg'][:1].lower()}{first['msg'][1:]}", hint) from None
    for place, entry in enumerate(scene.include):
        if entry.position is not None and entry.position[1] >= place:
            what = f"include.{place}.position refers to entry {entry.position[1]}, which is not an earlier entry"
            raise DataError(f"{where}: {what}", "entries are counted from 0")
    return row
