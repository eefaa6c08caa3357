"""Arguments of a pipeline's ``__call__``, as requests hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INDEX = "model_index.json"
"""The file in which diffusers lists a pipeline's components."""


def frozen(call: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A pipeline's arguments as a hashable value."""
    return tuple(sorted((name, repr(value)) for name, value in call.items()))


def effective_call(*calls: Mapping[str, Any]) -> dict[str, Any]:
    """Merge arguments; later ones replace earlier ones. None removes an argument: the pipeline uses its default."""
    merged = {key: value for call in calls for key, value in call.items()}
    return {key: value for key, value in merged.items() if value is not None}


def call_of_row(
    row: Mapping[str, Any], run: Mapping[str, Any], *overrides: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Negative prompt and pipeline arguments of one row: the row's over the run's, and explicit overrides over both."""
    return split_call(effective_call(run, row, *overrides))


def split_call(call: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Split off the negative prompt, which is encoded; the other arguments are passed to the pipeline unchanged."""
    rest = dict(call)
    return rest.pop("negative_prompt", None), rest
