"""The program of one rank: makes the call in a file, and writes the answer into another one."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
from pathlib import Path

from omni_rl.run.launchers import run_entry

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


INTERRUPTED = 130
"""The exit code without an answer."""


def main(call: str, answer: str) -> int:
    """Make the call; 0 if it has a result, 1 if it has an error, ``INTERRUPTED`` after Ctrl-C outside of training."""
    _end_with_the_launcher()
    try:
        text = run_entry(Path(call).read_text())
    except KeyboardInterrupt:
        return INTERRUPTED
    Path(answer).write_text(text)
    return int("error" in json.loads(text))


def _end_with_the_launcher() -> None:
    """Get SIGTERM when the launcher's process dies, so that no rank is left over. Linux only."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
