"""A reward in a process of its own (``process: true``): whatever it does, the run and other rewards are not reached."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from omni_rl.contracts.reward import RewardBatch, Scores
from omni_rl.contracts.spec import LocalFile, Part
from omni_rl.errors import RewardError
from omni_rl.rewards.answers import Answer
from omni_rl.rewards.frames import receive, send, send_batch


class LostError(RuntimeError):
    """The process ended during a call."""


class OwnProcess:
    """Starts the process, builds the reward in it, and forwards batches to it. After a crash, the next call starts
    a new one.

    Args:
        part: the reward, with its options.
        files: local plugin files, from which the process may have to load it.

    Raises:
        RewardError: the reward cannot be built in the process.
    """

    Config: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self, part: Part, files: list[LocalFile]) -> None:
        self._name = part.key
        self._hello = {
            "part": part.model_dump(mode="json"),
            "files": [file.model_dump(mode="json") for file in files],
            "path": sys.path,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.scope: Literal["sample", "group"] = self._started()["scope"]

    def ensure_started(self) -> None:
        """Start the process again if it has ended.

        Raises:
            RewardError: the reward cannot be built in it any more.
        """
        if self._process is None:
            self._started()

    def score(self, batch: RewardBatch) -> Scores:
        """The process's message about the batch, for :meth:`answer`; blocks until it arrives.

        Raises:
            LostError: the process ended before it answered.
        """
        self.ensure_started()
        process = self._process
        assert process is not None, "ensure_started starts it"
        try:
            send_batch(_pipe(process.stdin), batch)
            return receive(_pipe(process.stdout))  # type: ignore[return-value]
        except (EOFError, OSError, ValueError):
            ending = _ending(process)
            self._end(process)
            raise LostError(f"its process {ending} during the call") from None

    def answer(self, label: str, message: Any) -> Answer:
        """The answer in a message of :meth:`score`; the process knows the reward as ``reward``."""
        reasons = [reason.replace("reward 'reward'", f"reward {label!r}", 1) for reason in message["reasons"]]
        return Answer(message["scores"], reasons, message["failed"])

    def stop(self) -> None:
        """End the process and those that it started, whatever they do. Idempotent."""
        if self._process is not None:
            self._end(self._process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End this process; another thread may have started the next one already."""
        if self._process is process:
            self._process = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()

    def _started(self) -> dict[str, Any]:
        """Start the process; returns its first message.

        A new session keeps Ctrl-C from it: the run decides when it ends.
        """
        command = [sys.executable, "-m", "omni_rl.rewards.worker"]
        pipe = subprocess.PIPE
        self._process = process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        try:
            send(_pipe(process.stdin), self._hello)
            answer = receive(_pipe(process.stdout))
        except (EOFError, OSError) as error:
            ending = _ending(process)
            self.stop()
            raise RewardError(f"the process of reward {self._name!r} {ending} while the reward was built.") from error
        except BaseException:  # Ctrl-C
            self.stop()
            raise
        if "error" in answer:
            self.stop()
            raise RewardError(answer["error"], answer["hint"])
        return answer


def _pipe(pipe: Any) -> Any:
    assert pipe is not None, "the process was started with pipes"
    return pipe


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(1)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
