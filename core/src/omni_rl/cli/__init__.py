"""The ``omni-rl`` command. Modules that import torch are imported by the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from omni_rl import __version__
from omni_rl.errors import RunError, UserError

app = typer.Typer(
    name="omni-rl",
    help="RL post-training for diffusion and flow-matching models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML configuration")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, e.g. train.lr=1e-4")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory")]


def main() -> None:
    """Entry point: what the user can mend exits 2, a failed run exits 1, an interrupted one 130.

    130 also when Ctrl-C let a run finish its iteration and save, so that a script sees that it is not complete.
    """
    try:
        app()
    except UserError as error:
        _leave(error, 2)
    except RunError as error:
        _leave(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _leave(error: Exception, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False) -> None:
    """RL post-training for diffusion and flow-matching models."""
    if show:
        print(f"omni-rl {__version__}")
        raise typer.Exit


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="new or empty folder; default: runs/<name>-<time>")] = None,
) -> None:
    """Prove a run, then train it."""
    from omni_rl.cli.training import announce, quiet
    from omni_rl.reporting.progress import Progress
    from omni_rl.run.start import train

    quiet()
    announce(train(config, overrides or (), run_dir, Progress))


@app.command()
def resume(run: RunFolder, overrides: Overrides = None) -> None:
    """Go on with a run from its newest checkpoint."""
    from omni_rl.cli.training import announce, quiet
    from omni_rl.reporting.progress import Progress
    from omni_rl.run.start import resume

    quiet()
    announce(resume(run, overrides or (), Progress))


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the gate alone: a few samples and a table of verdicts."""
    from omni_rl.cli.training import quiet
    from omni_rl.gate.rows import raise_on_failure, table
    from omni_rl.run.start import check

    quiet()
    rows = check(config, overrides or ())
    print(table(rows))
    raise_on_failure(rows)


@app.command()
def config(
    config: ConfigFile,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="say where every value comes from")] = False,
) -> None:
    """Print the resolved configuration."""
    from omni_rl.config.explain import dump
    from omni_rl.config.explain import explain as explained
    from omni_rl.config.resolve import resolve

    resolved = resolve(config, overrides or ())
    print(explained(resolved) if explain else dump(resolved), end="" if not explain else "\n")


@app.command()
def explain(
    architecture: Annotated[str, typer.Argument(help="a pipeline class, e.g. the _class_name of model_index.json")],
    algorithm: Annotated[str, typer.Argument(help="an algorithm's name")],
) -> None:
    """Which object answers each hook for a model and an algorithm, and from which distribution."""
    from omni_rl.cli.explaining import explained

    print(explained(architecture, algorithm))


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    check: Annotated[bool, typer.Option("--check", help="import each plugin in a process of its own")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="time limit of --check for each distribution")] = 60,
) -> None:
    """List installed plugins."""
    from omni_rl.cli.explaining import listed

    text, sound = listed(as_json=as_json, check=check, seconds=seconds)
    print(text)
    if not sound:
        raise typer.Exit(1)


@app.command()
def sample(
    source: Annotated[
        Path, typer.Argument(help="a run directory (its newest checkpoint) or a configuration (the base)")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="one or more prompts")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write")] = Path("samples.png"),
    each: Annotated[int, typer.Option("--each", "-n", min=1, help="samples per prompt")] = 4,
    seed: Annotated[int, typer.Option(help="names the noise")] = 0,
) -> None:
    """Draw samples with the weights of a run."""
    from omni_rl.cli.sample import sample_to_file
    from omni_rl.cli.training import quiet

    quiet()
    sample_to_file(source, prompts, output, each, seed)
    print(output)


@app.command()
def export(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="new or empty folder; default: RUN/export")
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(min=1, help="its iteration; default: the newest")] = None,
    weights: Annotated[
        str | None, typer.Option(help="policy, ema, ...; default: ema if the run kept an average, else policy")
    ] = None,
    layout: Annotated[
        Literal["lora", "pipeline"] | None,
        typer.Option("--format", help="default: lora if the run trained adapters; pipeline merges them"),
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="default: the run's precision")] = None,
    verify: Annotated[bool, typer.Option(help="draw the validation pictures again with plain diffusers")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export")] = False,
) -> None:
    """Write a run's weights for plain diffusers, with a model card."""
    from omni_rl.cli.training import quiet
    from omni_rl.export import Wanted, export_run

    quiet()
    print(export_run(run, output, Wanted(checkpoint, weights, layout, dtype, verify, force), overrides or ()))


@app.command()
def conformance(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="an installed package, e.g. omni-rl-ocr")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="options of the plugin, as in a configuration: reward.detect=true, rollout.call.height=64",
        ),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="model, algorithm, reward, engine, backend")] = None,
    key: Annotated[list[str] | None, typer.Option(help="what a configuration calls it, e.g. ocr")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="small pipeline folder or shipped checkpoint for models and engines")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="show failures as pytest does")] = False,
) -> None:
    """Run the contract suites on an installed plugin and report: what its tests inherit, without its tests.

    Everything that the package offers is tested; --kind and --key choose. --kind, --key and --model may be repeated.
    A model needs a pipeline folder: --model, or one that the package brings, or the tiny random one of its architecture
    that omni-rl-tiny has. Everything else runs on a toy.

    Exit status: 0 when all is well, 1 when a check failed, 2 when a suite could not run. Needs omni-rl[testing].
    """
    from omni_rl.cli.conforming import conformance

    given = {"kinds": kind or (), "keys": key or (), "models": model or (), "overrides": overrides or ()}
    code = conformance(distribution, trace=trace, **given)
    if code:
        raise typer.Exit(code)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="model, algorithm, reward or engine")],
    name: Annotated[str, typer.Argument(help="lower-case words joined by -, without omni-rl-: sharp-edges")],
    output: Annotated[Path, typer.Option("--output", "-o", help="existing folder to write the package in")] = Path(),
) -> None:
    """Start a plugin: a package omni-rl-NAME with a working example, its tests and a README that says what to edit.

    As generated it passes its tests, ruff, mypy and `omni-rl conformance`. Needs omni-rl[new].
    """
    from omni_rl.cli.new_plugin import new_plugin

    print(new_plugin(kind, name, output))
