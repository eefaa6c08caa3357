"""What other processes say on their way down: the one place where the reason is written is often their stderr."""

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
"""What those who waited for the process see."""


class Overheard:
    """Passes on what processes started under :meth:`listening` write to stderr, for as long as they live, and keeps the
    last lines.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=1000)
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Processes that start meanwhile, and this one meanwhile, are listened to."""
        sys.stderr.flush()
        real, (read, write) = os.dup(2), os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self._thread = threading.Thread(target=self._pass_on, args=(read, os.dup(real)), daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)

    def _pass_on(self, read: int, real: int) -> None:
        with os.fdopen(read, errors="replace") as lines, os.fdopen(real, "w") as stderr:
            for line in lines:
                self._lines.append(line)
                stderr.write(line)
                stderr.flush()

    def reason(self) -> str | None:
        """The last exception that was named and is no mere consequence; None if there was none."""
        assert self._thread is not None, "nothing was listened to"
        self._thread.join(timeout=2)  # what is still in the pipe
        named = [found for line in list(self._lines) if (found := _EXCEPTION.search(line))]
        causes = [found.group(0) for found in named if found.group(1) not in _CONSEQUENCES]
        return causes[-1].strip() if causes else None
