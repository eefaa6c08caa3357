"""Arguments that several commands share, and what each does first. Importing this imports no torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML configuration")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, e.g. train.lr=1e-4")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory")]


def quiet() -> None:
    """Keep the libraries' own banners and progress bars out of the run's output."""
    import diffusers
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
