"""What a run that failed tells the user: the error, what is saved, and the command that goes on."""

from __future__ import annotations

import contextlib
import shlex
import traceback

from omni_rl.errors import RunError, UserError
from omni_rl.parallel.group import lost
from omni_rl.plugins.blame import describe_error
from omni_rl.reporting.recorder import Recorder
from omni_rl.run.loop import TrainingLoop
from omni_rl.run.signals import Stopped
from omni_rl.storage.durable import write_atomic
from omni_rl.storage.run_folder import RunDirectory


def failure(error: BaseException, loop: TrainingLoop, recorder: Recorder) -> BaseException:
    """The error for the user: errors of other code become one sentence, and their traceback goes to ``error.txt``."""
    if isinstance(error, (UserError, RunError)):
        return error
    if isinstance(error, Stopped):
        return RunError(str(error))
    if isinstance(error, KeyboardInterrupt):
        recorder.progress.note(way_on(loop, recorder.directory))
        return error
    file = recorder.directory.path / "error.txt"
    with contextlib.suppress(Exception):
        write_atomic(file, "".join(traceback.format_exception(error)).encode(errors="replace"))
    where = "the end of the run" if loop.complete else f"iteration {loop.state.iteration + 1}"
    what = f"{where} failed: {_described(error)}"
    return RunError(f"{what}\n  the traceback is in {file}" if file.exists() else what)


def way_on(loop: TrainingLoop, directory: RunDirectory) -> str:
    """What is saved, what is lost, and the command that goes on."""
    command = f"omni-rl resume {shlex.quote(str(directory.path))}"
    complete, saved = loop.state.iteration, loop.saved or 0
    reason = f"\nthe last iteration could not be saved: {_described(loop.save_error)}" if loop.save_error else ""
    if complete == 0:
        return f"no iteration was complete; to start the run again: {command}{reason}"
    if loop.saved is None:
        return f"there is no checkpoint, {_iterations(complete)} lost; to start the run again: {command}{reason}"
    if saved == complete:
        return f"iteration {saved} is saved, no complete iteration is lost; continue with: {command}{reason}"
    lost = _iterations(complete - saved)
    return f"the newest checkpoint is of iteration {saved}, {lost} after it lost; continue with: {command}{reason}"


def _iterations(number: int) -> str:
    return "1 complete iteration is" if number == 1 else f"{number} complete iterations are"


def _described(error: BaseException) -> str:
    """As :func:`describe_error`; of an error for users its first line; also for one that cannot be described."""
    try:
        if isinstance(error, (UserError, RunError)):
            return str(error).partition("\n")[0]
        return lost(error) or describe_error(error)
    except Exception:
        return type(error).__name__
