"""The ``omni-rl`` command. Modules that import torch are imported by the commands that need them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from omni_rl._version import __version__
from omni_rl.cli.arguments import ConfigFile, Overrides, RunFolder, quiet
from omni_rl.cli.extensions import CommandGroup
from omni_rl.errors import RunError, UserError
from omni_rl.reporting.steady_output import open_standard_streams, steady_output
from omni_rl.run.closing import hangs

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
    """Entry point. Exit codes: 2 for an error that the user can mend, 1 for a failed run, 130 for an interrupted run.

    The code is 128 plus the number of the signal if a run saved and ended after a signal (130 after Ctrl-C), because
    the run is not complete.
    """
    open_standard_streams()
    with steady_output():
        code = _outcome()
    if hangs():  # a part of the run, such as a reward, does not end; Python would wait for it
        os._exit(code)
    sys.exit(code)


def _outcome() -> int:
    try:
        app()
    except UserError as error:
        return _explain(error, 2)
    except RunError as error:
        return _explain(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


def _explain(error: Exception, code: int) -> int:
    print("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    """RL post-training for diffusion and flow-matching models."""
    if show:
        print(f"omni-rl {__version__}")
        raise typer.Exit


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="folder of the run, new or empty; default: runs/<name>-<time>")
    ] = None,
) -> None:
    """Check a run with the gate, then train."""
    from omni_rl.cli.training import announce
    from omni_rl.run.start import train

    quiet()
    done = train(config, overrides or (), run_dir, show=True)
    announce(done.directory, done.state.iteration, done.signal)


@app.command()
def resume(run: RunFolder, overrides: Overrides = None) -> None:
    """Continue a run from its newest checkpoint, or from its beginning if it has none."""
    from omni_rl.cli.training import announce
    from omni_rl.run.start import resume

    quiet()
    done = resume(run, overrides or (), show=True)
    announce(done.directory, done.state.iteration, done.signal)


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run only the gate: draw a few samples and print a table of checks."""
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
    explain: Annotated[bool, typer.Option("--explain", help="print the origin of every value")] = False,
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
    algorithm: Annotated[str, typer.Argument(help="the name of an algorithm")],
) -> None:
    """Print the function that answers each hook for a model and an algorithm, and its pip package."""
    from omni_rl.cli.explaining import explained

    print(explained(architecture, algorithm))


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    check: Annotated[bool, typer.Option("--check", help="import each plugin in its own process")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="time limit of --check per pip package")] = 60,
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
        Path, typer.Argument(help="a run directory (newest checkpoint) or a YAML configuration (base model)")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="one or more prompts")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write")] = Path("samples.png"),
    each: Annotated[int, typer.Option("--each", "-n", min=1, help="samples per prompt")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the noise")] = 0,
) -> None:
    """Draw samples with the weights of a run, and write them as one PNG."""
    from omni_rl.cli.sample import sample_to_file

    quiet()
    sample_to_file(source, prompts, output, each, seed)
    print(output)
