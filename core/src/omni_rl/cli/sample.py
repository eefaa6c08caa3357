"""The command ``omni-rl sample``: draws samples with the weights of a run, outside of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omni_rl.config.resolve import resolve
from omni_rl.contracts.prompts import PromptRow
from omni_rl.contracts.types import Sample
from omni_rl.errors import RunError, UserError
from omni_rl.reporting.artifacts import write_png
from omni_rl.reporting.exhibits import image_of
from omni_rl.reporting.image_grids import grid
from omni_rl.run.sampler import open_sampler
from omni_rl.sampling.plan_requests import validation_requests
from omni_rl.sampling.stream import finished_groups
from omni_rl.storage.run_folder import RunDirectory


def sample_to_file(source: Path, prompts: Sequence[str], output: Path, each: int, seed: int) -> None:
    """Draw ``each`` samples of every prompt and write them as one PNG grid.

    Raises:
        UserError: ``source`` is neither a run nor a configuration, or ``output`` cannot be written.
    """
    if output.suffix != ".png":
        raise UserError(f"{output} is not the name of a PNG file", f"give --output {output.with_suffix('.png')}")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is not a folder", f"mkdir -p {output.parent}")
    samples = draw(source, prompts, each, seed)
    images = [image_of(s) for s in samples]
    write_png(output, grid(images, [s.request.prompt for s in samples], columns=each), then="draw the samples again")


def draw(source: Path, prompts: Sequence[str], each: int, seed: int) -> list[Sample]:
    """Samples in prompt order, without noise injection, with the validation's steps and arguments."""
    directory = RunDirectory.open(source) if source.is_dir() else None
    resolved = resolve(directory.config_file if directory else source)
    with open_sampler(resolved, directory) as engine:
        requests = validation_requests(resolved.config, [PromptRow(p) for p in prompts], 0, each=each)
        keyed = [
            replace(r, key=replace(r.key, run_seed=seed), initial_key=replace(r.key, run_seed=seed)) for r in requests
        ]
        samples = [s for group in finished_groups(engine, keyed) for s in group]
    failed = [s.error for s in samples if s.error]
    if failed:
        raise RunError(f"the engine failed {len(failed)} of {len(samples)} samples: {failed[0]}")
    return sorted(samples, key=lambda s: s.request.sample_id)
