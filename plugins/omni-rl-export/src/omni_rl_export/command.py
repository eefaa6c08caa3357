"""The ``omni-rl export`` command. It imports torch only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from omni_rl.cli.arguments import Overrides, RunFolder, quiet


def export(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="new or empty folder; default: RUN/export")
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(min=1, help="its iteration; default: the newest")] = None,
    weights: Annotated[
        str | None, typer.Option(help="policy, ema, ...; default: ema if the run has it, else policy")
    ] = None,
    layout: Annotated[
        Literal["diffusers", "peft", "comfyui", "kohya", "pipeline", "lora"] | None,
        typer.Option(
            "--format",
            help="reader of the LoRA file; default: diffusers (also called lora) if the run trained adapters; "
            "pipeline: a pipeline folder with adapters merged",
        ),
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="default: the run's precision")] = None,
    verify: Annotated[bool, typer.Option(help="draw the validation images again with plain diffusers")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export")] = False,
) -> None:
    """Write a run's weights for plain diffusers, with a model card."""
    from omni_rl_export.export import Wanted, export_run

    quiet()
    print(export_run(run, output, Wanted(checkpoint, weights, layout, dtype, verify, force), overrides or ()))
