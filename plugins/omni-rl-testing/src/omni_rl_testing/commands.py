"""The commands ``omni-rl conformance`` and ``omni-rl new``. They import torch and pytest only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def conformance(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="an installed package, e.g. omni-rl-ocr")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="options of the plugin as in a configuration, e.g. reward.detect=true, rollout.call.height=64",
        ),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="model, algorithm, reward, engine, backend, tracker")] = None,
    key: Annotated[list[str] | None, typer.Option(help="its name in a configuration, e.g. ocr")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="small pipeline folder or shipped checkpoint, for models and engines")
    ] = None,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="also train on two ranks, for models and backends: a minute for each")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="show failures as pytest does")] = False,
) -> None:
    """Run the contract suites on an installed plugin and print a report. The plugin's own tests are not needed.

    All plugins of the package are tested; --kind and --key select some. --kind, --key and --model may be repeated. A
    model plugin needs a pipeline folder: --model, or one that the package has, or the tiny random pipeline of its
    architecture in omni-rl-tiny. All other kinds are tested with a toy pipeline.

    Exit status: 0 if all checks passed, 1 if a check failed, 2 if a suite could not run. Needs omni-rl[testing].
    """
    from omni_rl_testing.conformance.printing import print_report

    selection = {"kinds": kind or (), "keys": key or (), "models": model or (), "overrides": overrides or ()}
    code = print_report(distribution, trace=trace, ranks=ranks, **selection)
    if code:
        raise typer.Exit(code)


def new(
    kind: Annotated[str, typer.Argument(help="model, algorithm, reward, engine or tracker")],
    name: Annotated[str, typer.Argument(help="lower-case words joined by -, without omni-rl-: sharp-edges")],
    output: Annotated[Path, typer.Option("--output", "-o", help="existing folder to write the package in")] = Path(),
) -> None:
    """Create a plugin package omni-rl-NAME with a working example, its tests and a README that says what to edit.

    The new package passes its tests, ruff, mypy and `omni-rl conformance` without changes. Needs omni-rl[new].
    """
    from omni_rl_testing.new_plugin import new_plugin

    print(new_plugin(kind, name, output))
