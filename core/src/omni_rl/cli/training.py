"""What the training commands print around a run."""

from __future__ import annotations

import os
import warnings

from omni_rl.run import Run


def quiet() -> None:
    """Keep the libraries' own banners and progress bars out of the run's output."""
    import diffusers
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def announce(run: Run) -> None:
    """The last lines: where things are, and what changed."""
    assert run.directory is not None
    first, last = run.validations[0], run.validations[-1]
    if run.interrupted:
        print(f"stopped after iteration {run.iteration}; go on with: omni-rl resume {run.directory.path}")
    if last.iteration > first.iteration:
        print(f"held-out reward {first.mean:.3f} -> {last.mean:.3f} (standard error {last.stderr:.3f})")
    print(f"report: {run.directory.path / 'report.html'}")
