"""``omni-rl export``: a run's weights for plain diffusers, with a model card, compared with the run's own images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from omni_rl._version import __version__
from omni_rl.errors import UserError
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.storage.durable import writing
from omni_rl_export.card import write_card
from omni_rl_export.folders import new_folder
from omni_rl_export.samples import write_samples
from omni_rl_export.source import Source, open_source
from omni_rl_export.verify import Verified, verify
from omni_rl_export.weights import write_lora, write_pipeline

SHEET = "omni-rl.json"
"""File with the export's data as JSON; a folder with this file is an export."""

Format = Literal["lora", "diffusers", "peft", "comfyui", "kohya", "pipeline"]
"""``lora`` is another name of ``diffusers``."""
Precision = Literal["fp32", "bf16"]

__all__ = ["Format", "Precision", "Wanted", "export_run"]


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        iteration: the iteration of the checkpoint; None: the newest.
        weights: ``policy``, ``ema`` or another copy that the run keeps; None: the weights that validation sampled with.
        format: None: ``diffusers`` for a run that trained LoRA, otherwise ``pipeline``.
        dtype: of the exported weights; None: the run's precision.
        verify: load the export in plain diffusers and draw the run's validation images again.
        force: replace an earlier export.
    """

    iteration: int | None = None
    weights: str | None = None
    format: Format | None = None
    dtype: Precision | None = None
    verify: bool = True
    force: bool = False


def export_run(
    run: str | Path,
    output: Path | None = None,
    wanted: Wanted | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Write the export of ``run`` and return its folder. After an error, no folder is left.

    Args:
        output: a new or empty folder, or with ``wanted.force`` an earlier export; default: ``export`` in the run
            directory.
        overrides: ``section.key=value``, for a model or data that has been moved.
        say: called with messages: before long work, and with the result of the comparison.

    Raises:
        UserError: the run does not have the requested weights, or ``output`` exists.
        RunError: plain diffusers does not draw the run's images, or the disk is full.
    """
    wanted = wanted or Wanted()
    output = output or Path(run) / "export"
    source = open_source(run, overrides, wanted.iteration, wanted.weights)
    _check_free(output, wanted.force)
    exhibits = source.exhibits()
    if wanted.verify and not exhibits:
        what = f"no validation sampled with the weights {source.weights!r} of iteration {source.iteration}"
        raise UserError(f"{what}, so there are no images to compare with", "skip the comparison with --no-verify")
    size = (source.checkpoint / "tensors.safetensors").stat().st_size
    with writing(output, size, then="export again"), new_folder(output) as folder:
        _fill(folder, source, wanted, exhibits, say)
    return output


def _fill(
    folder: Path, source: Source, wanted: Wanted, exhibits: Sequence[Exhibit], say: Callable[[str], None]
) -> None:
    precision = source.resolved.config.precision
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[wanted.dtype or precision]
    form = wanted.format or ("diffusers" if source.lora else "pipeline")
    lora: list[dict[str, Any]] = []
    base = source.base() if wanted.verify or form == "pipeline" else None
    if form != "pipeline":
        lora = write_lora(folder, source, getattr(torch, dtype), "diffusers" if form == "lora" else form)
    else:
        assert base is not None
        write_pipeline(folder, source, base, getattr(torch, dtype))
    if exhibits:
        model = source.origin["model"]
        write_samples(folder, exhibits, dtype=dtype, lora=lora, base=model["name"] if model["hub"] else None)
    verified: Verified | None = None
    if wanted.verify:
        assert base is not None
        say(f"drawing {len(exhibits)} validation images with plain diffusers (--no-verify skips this)")
        verified = verify(folder, base, source, exhibits, dtype)
        say(str(verified))
    write_card(folder, source, dtype=dtype, lora=lora, exhibits=exhibits, verified=verified)
    sheet = {
        "omni_rl": __version__,
        "iteration": source.iteration,
        "weights": source.weights,
        "dtype": dtype,
        "format": form,
        "lora": lora,
        "verified": verified and asdict(verified),
        "provenance": source.origin,
    }
    (folder / SHEET).write_text(json.dumps(sheet, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_free(output: Path, force: bool) -> None:
    """Raise UserError unless ``output`` is new or empty, or an earlier export with ``force``."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SHEET).is_file():
        raise UserError(f"{output} exists and is not an export", "give another folder with --output")
    if not force:
        raise UserError(f"{output} exists", "replace it with --force, or give another folder with --output")
