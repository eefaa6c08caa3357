"""The ``omni-rl`` command. Modules that import torch are imported by the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from omni_rl._version import __version__
from omni_rl.cli.arguments import ConfigFile, Overrides, RunFolder, quiet
from omni_rl.cli.extensions import CommandGroup
from omni_rl.errors import RunError, UserError

app = typer.Typer(
    name="omni-rl",
    cls=CommandGroup,
    help="RL post-training for diffusion and flow-matching models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    from omni_rl.cli.training import announce
    from omni_rl.run.start import train

    quiet()
    announce(train(config, overrides or (), run_dir, show=True))


@app.command()
def resume(run: RunFolder, overrides: Overrides = None) -> None:
    """Go on with a run from its newest checkpoint."""
    from omni_rl.cli.training import announce
    from omni_rl.run.start import resume

    quiet()
    announce(resume(run, overrides or (), show=True))


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the gate alone: a few samples and a table of verdicts."""
    from omni_rl.contracts.verdicts import raise_on_failure, table
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

    quiet()
    sample_to_file(source, prompts, output, each, seed)
    print(output)
