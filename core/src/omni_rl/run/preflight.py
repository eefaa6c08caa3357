"""Checks of a run that need no weights. They run first, because loading a large model takes minutes."""

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
from omni_rl.model.folder import check_folder


def check_ahead(resolved: Resolved, hooks: Any, data: Sequence[tuple[Data, Sequence[PromptRow]]]) -> None:
    """Check pipeline arguments, prompt rows, the SDE window and the LoRA targets.

    Args:
        data: the configuration sections with prompts, each with its rows.

    Raises:
        ModelError: there is no such pipeline, or its configuration is damaged.
        DataError: the algorithm cannot learn from a row.
        ConfigError: the pipeline does not have an argument, or the engine does not take media; the SDE window does not
            fit the number of steps; no module matches the LoRA targets.
    """
    config = resolved.config
    check_folder(resolved.model_path)
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
    """Check that the pipeline has the arguments that rows set, and that engine and algorithm use the rows' media."""
    check_call(data.media, pipeline, "data.media")
    for number, values in {repr(row.call): (number, row.call) for number, row in enumerate(rows, 1)}.values():
        _check_row_call(f"{data.path}: row {number}", values, pipeline)
    if not data.media:
        return
    if "prepare_condition" not in resolved.engine.object.honours:
        engine = resolved.config.rollout.engine
        raise ConfigError(f"data.media: the engine {engine} takes no media", "use rollout.engine: diffusers")
    if resolved.traits.offline:
        raise ConfigError("data.media: algorithms that learn from pairs take no media", "remove data.media")


def _check_row_call(where: str, call: Mapping[str, Any], pipeline: type) -> None:
    check_call(call, pipeline, "data.call", lambda _: where)
    for name, value in call.items():
        if not isinstance(value, (bool, int, float, str, NoneType)):
            raise ConfigError(
                f"{where}: {name} must be a number, text or null, not {value!r}", f"set rollout.call.{name}"
            )


def _check_targets(resolved: Resolved, targets: list[str] | str) -> None:
    denoisers = outline.denoisers(resolved.model_path)
    source = resolved.tree.source(("model", "lora", "targets"))
    for name, denoiser in denoisers.items():
        refuse_untargeted(name, denoiser, targets, source.place)
    if denoisers and source.by != "plugin":  # targets of a plugin may be for several models of one architecture
        refuse_unmatched(denoisers, targets, source.place)
