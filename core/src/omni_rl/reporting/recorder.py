"""Write the files of a run, show its progress, and call the hooks of its observers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omni_rl.contracts.events import RunInfo, State
from omni_rl.contracts.schema import Config
from omni_rl.plugins.manager import Hooks
from omni_rl.reporting import artifacts
from omni_rl.reporting.progress import Progress
from omni_rl.reporting.validated import Validated
from omni_rl.storage.run_folder import RunDirectory


@dataclass
class Recorder:
    """Writes files, shows progress and calls the observers' hooks.

    Attributes:
        directory, progress, hooks: the run's files, its display, and the hooks of its observers.
        config, architecture: for observers.
        last_validation: the only one whose samples stay in memory.
    """

    directory: RunDirectory
    progress: Progress
    hooks: Hooks
    config: Config
    architecture: str
    last_validation: Validated | None = field(default=None, init=False)

    def info(self, state: State) -> RunInfo:
        """The run as observers see it."""
        return RunInfo(self.directory.path, self.config, self.architecture, state)

    def start(self, state: State) -> None:
        """The loop is about to begin."""
        self.hooks.on_run_start(run=self.info(state))

    def validation(self, state: State, validated: Validated) -> None:
        """A validation is complete."""
        self.last_validation = validated
        artifacts.write_validation(self.directory, validated)
        for sentence in validated.notes:
            self.progress.note(sentence)
        self.progress.validation(validated.iteration, validated.mean, validated.stderr)
        self.hooks.on_validation(
            run=self.info(state), iteration=validated.iteration, samples=validated.samples, rewards=validated.rewards
        )

    def iteration(self, state: State, row: Mapping[str, float]) -> None:
        """An iteration is complete."""
        self.directory.append_metrics(row)
        self.progress.iteration(row)
        self.hooks.on_iteration_end(run=self.info(state), row=row)

    def checkpoint(self, state: State, path: Path) -> None:
        """A checkpoint is complete."""
        self.hooks.on_checkpoint(run=self.info(state), path=str(path))

    def end(self, state: State, error: BaseException | None) -> None:
        """The run is over. What observers raise after an error of the run is shown, and never takes its place."""
        try:
            self.hooks.on_run_end(run=self.info(state), error=error)
        except Exception as own:
            if error is None:
                raise
            said = (str(own).strip() or "no reason given").splitlines()[0]
            self.progress.note(f"a tracker or another observer failed at the end, too: {type(own).__name__}: {said}")


class Onlooker(Recorder):
    """The recorder of all ranks but the first: it writes and shows nothing, and calls no observers."""

    def start(self, state: State) -> None:
        """Nothing to do."""

    def validation(self, state: State, validated: Validated) -> None:
        """Keep the figures."""
        self.last_validation = validated

    def iteration(self, state: State, row: Mapping[str, float]) -> None:
        """Nothing to do."""

    def checkpoint(self, state: State, path: Path) -> None:
        """Nothing to do."""

    def end(self, state: State, error: BaseException | None) -> None:
        """Nothing to do."""
