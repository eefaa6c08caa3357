"""Arguments and setup that several commands share. Importing this module does not import torch."""

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
    """Switch off the warnings and progress bars of diffusers and transformers."""
    import diffusers
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
