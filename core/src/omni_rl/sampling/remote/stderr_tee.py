"""Copy the stderr of child processes and keep its last lines: often only they say why a process died."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator

_EXCEPTION = re.compile(r"\b(\w*(?:Error|Exception)): (.+)")
_CONSEQUENCES = {"EOFError", "BrokenPipeError"}
"""Exceptions of processes that waited for the process that failed."""


class StderrTee:
    """Records the stderr of processes that are started inside :meth:`recording`, and still writes it to stderr."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=1000)
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record this process until the context ends, and processes started inside it until they end."""
        sys.stderr.flush()
        real, (read, write) = os.dup(2), os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self._thread = threading.Thread(target=self._copy, args=(read, os.dup(real)), daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)

    def _copy(self, read: int, real: int) -> None:
        with os.fdopen(read, errors="replace") as lines, os.fdopen(real, "w") as stderr:
            for line in lines:
                self._lines.append(line)
                stderr.write(line)
                stderr.flush()

    def reason(self) -> str | None:
        """The last recorded exception that is not a consequence of another process's failure; None if there is none."""
        assert self._thread is not None, "nothing was recorded"
        self._thread.join(timeout=2)  # until the rest of the pipe is read
        exceptions = [match for line in list(self._lines) if (match := _EXCEPTION.search(line))]
        causes = [match.group(0) for match in exceptions if match.group(1) not in _CONSEQUENCES]
        return causes[-1].strip() if causes else None
