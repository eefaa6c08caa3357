"""Signals that ask a run to stop: Ctrl-C, and those of clusters and terminals.

While nothing of the current iteration is in the weights, a signal ends the work at once, even a hung reward. During an
update, and while files are written, it is remembered until the end of that work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from omni_rl.parallel.group import world_size

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that stop a run after a checkpoint."""

_SOON = b"\nfinishing this update, then saving; Ctrl-C again to stop at once\n"
_NOW = b"\nleaving this iteration and saving; Ctrl-C again to stop at once\n"


class Stopped(BaseException):
    """A signal arrived. It derives from BaseException, so that code that handles errors does not handle it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {name_of(number)}")
        self.number = number


_ENTERED: list[StopSignals] = []


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Work of one rank in which it waits for no other: a signal ends it, if a run handles signals."""
    with _ENTERED[-1].raising() if _ENTERED else contextlib.nullcontext():
        yield


def name_of(number: int) -> str:
    """``SIGTERM``; for SIGINT ``Ctrl-C``."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopSignals:
    """Handles the signals of :data:`STOPPING` while it is entered. Works in the main thread; in others it does nothing.

    Attributes:
        arrived: the number of the first signal; None before.
    """

    def __init__(self) -> None:
        self.arrived: int | None = None
        self._pid = os.getpid()
        self._raises = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        _ENTERED.append(self)
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                number = getattr(signal, name, None)  # Windows has only two of them
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _ENTERED.remove(self)
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier.clear()

    @contextlib.contextmanager
    def stop_at_once(self) -> Iterator[None]:
        """The work of an iteration before its update, which a signal ends with :class:`Stopped`."""
        if world_size() > 1:  # alone, a rank may only leave its own work: see :func:`ends_at_once`
            yield
            return
        with self.raising():
            yield

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A context that a signal ends with :class:`Stopped`, also a signal that arrived before."""
        self.stop_if_arrived()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def stop_if_arrived(self) -> None:
        """Raise :class:`Stopped` if a signal has arrived."""
        if self.arrived is not None:
            raise Stopped(self.arrived)

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Raise at most once, so that saving is not disturbed; but a second Ctrl-C ends everything."""
        if os.getpid() != self._pid:  # a process that a reward has forked: there the signal means what it always does
            signal.signal(number, self._earlier.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.arrived is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.arrived = number
        raises, self._raises = self._raises, False
        with contextlib.suppress(OSError):
            os.write(1, _NOW if raises else _SOON)  # print() is not allowed here: it may be what was interrupted
        if raises:
            raise Stopped(number)
