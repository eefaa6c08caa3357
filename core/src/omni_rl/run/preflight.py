"""What can be known to be wrong with a run before any weight is read: minutes earlier, where a model is large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from omni_rl.config.call_arguments import check_call
from omni_rl.config.resolve import Resolved
from omni_rl.contracts.prompts import PromptRow
from omni_rl.contracts.schema import Data
from omni_rl.errors import ConfigError
from omni_rl.model import outline
from omni_rl.model.adapters import refuse_unmatched, refuse_untargeted


def check_ahead(resolved: Resolved, hooks: Any, data: Sequence[tuple[Data, Sequence[PromptRow]]]) -> None:
    """Ask the pipeline's class, its denoisers' outlines and the algorithm's window.

    Args:
        data: the sections that name prompts, with their rows.

    Raises:
        ModelError: there is no such pipeline, or its configuration is broken.
        ConfigError: the pipeline does not take the arguments, or the engine no media; the SDE window does not fit the
            steps; adapters would have no module to stand beside.
    """
    config = resolved.config
    pipeline = outline.pipeline_class(resolved.architecture, resolved.model_path)
    check_call(config.rollout.call, pipeline, "rollout.call", resolved.place)
    check_call(config.validation.call, pipeline, "validation.call", resolved.place)
    for section, rows in data:
        hooks.check_prompts(config=config, path=section.path, rows=rows)
        _check_rows(resolved, pipeline, section, rows)
    hooks.sde_window(iteration=0, group=0, steps=config.rollout.steps, seed=config.run_seed)
    if config.model.lora is not None:
        _check_targets(resolved, config.model.lora.targets)


def _check_rows(resolved: Resolved, pipeline: type, data: Data, rows: Sequence[PromptRow]) -> None:
    """What rows bring: arguments that the pipeline has, and media that somebody looks at."""
    check_call(data.media, pipeline, "data.media")
    for number, values in {repr(row.call): (number, row.call) for number, row in enumerate(rows, 1)}.values():
        _check_row_call(f"{data.path}: row {number}", values, pipeline)
    if not data.media:
        return
    if "prepare_condition" not in resolved.engine.object.honours:
        engine = resolved.config.rollout.engine
        raise ConfigError(f"data.media: the engine {engine} takes none", "use rollout.engine: diffusers")
    if resolved.traits.offline:
        raise ConfigError("data.media: algorithms that learn from pairs take none", "remove data.media")


def _check_row_call(where: str, call: Mapping[str, Any], pipeline: type) -> None:
    check_call(call, pipeline, "data.call", lambda _: where)
    for name, value in call.items():
        if not isinstance(value, (bool, int, float, str, NoneType)):
            raise ConfigError(
                f"{where}: {name} must be a number, text or null, not {value!r}", f"set rollout.call.{name}"
            )


def _check_targets(resolved: Resolved, targets: list[str] | str) -> None:
    found = outline.denoisers(resolved.model_path)
    source = resolved.tree.source(("model", "lora", "targets"))
    for name, denoiser in found.items():
        refuse_untargeted(name, denoiser, targets, source.place)
    if found and source.by != "plugin":  # a plugin's suggestion may cover several models of one architecture
        refuse_unmatched(found, targets, source.place)
