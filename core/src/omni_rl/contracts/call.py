"""Arguments of a pipeline's ``__call__`` as they travel in requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INDEX = "model_index.json"
"""A pipeline folder's index of components, by diffusers."""


def frozen(call: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A pipeline's arguments in a form that can be a dictionary's key."""
    return tuple(sorted((name, repr(value)) for name, value in call.items()))


def effective_call(*calls: Mapping[str, Any]) -> dict[str, Any]:
    """Later arguments over earlier ones; one that is null is left to the pipeline."""
    merged = {key: value for call in calls for key, value in call.items()}
    return {key: value for key, value in merged.items() if value is not None}


def call_of_row(
    row: Mapping[str, Any], run: Mapping[str, Any], *overrides: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Negative prompt and pipeline arguments of one row: the row's over the run's, and explicit overrides over both."""
    return split_call(effective_call(run, row, *overrides))


def split_call(call: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The negative prompt, which is text to encode, apart from the arguments that go to the pipeline as they are."""
    rest = dict(call)
    return rest.pop("negative_prompt", None), rest
