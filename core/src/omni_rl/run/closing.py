"""Close parts of a run that may never answer again, such as a reward that waits for a service."""

from __future__ import annotations

import threading
from collections.abc import Callable

_NAME = "omni-rl-closing"
SECONDS = 10.0


def close_within(close: Callable[[], None], seconds: float = SECONDS) -> None:
    """Call ``close`` and wait at most that long for its end; raises what it raises."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            close()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name=_NAME, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]


def hangs() -> bool:
    """Whether a part has not closed. Python would then wait for it when the process ends."""
    return any(thread.name == _NAME for thread in threading.enumerate())
