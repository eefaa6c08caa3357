"""Threads that run the code of rewards. A call that does not end cannot be stopped, so its thread is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, NoReturn

Job = tuple[Callable[[], Any], "Future[Any]"]
ENDS_WITHIN = 2.0
"""Seconds for which closing waits for a running call, so that a short one ends properly."""


NAME = "omni-rl-reward"
"""All threads that run code of rewards have names that start with this."""


class EndsGuarded:
    """``os._exit`` in a thread of a reward would end the whole run, silently: there it raises SystemExit instead.

    It works as always in other threads, and in processes that were forked, where pools need it.
    """

    def __init__(self) -> None:
        self._original, self._pid = os._exit, os.getpid()
        os._exit = self._exit

    def _exit(self, status: int) -> NoReturn:
        if os.getpid() == self._pid and current_thread().name.startswith(NAME):
            raise SystemExit(f"os._exit({status}), which would have ended the run")
        self._original(status)

    def close(self) -> None:
        """Put the original back, unless somebody else has replaced it since."""
        if os._exit == self._exit:
            os._exit = self._original


class Line:
    """One thread that runs jobs one after another. It is a daemon, so that a job without end cannot hold the process.

    Jobs must not raise.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # the holder is the only one with a job in the thread
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job; its result arrives in the future."""
        if self._thread is None:
            self._jobs = SimpleQueue()
            self._thread = Thread(target=_work, args=(self._jobs,), name=NAME, daemon=True)
            self._thread.start()
        done: Future[Any] = Future()
        self._jobs.put((job, done))
        return done

    def abandon(self) -> None:
        """Leave the running job behind: the next one gets a new thread. The old thread ends when its job does."""
        self._jobs.put(None)
        self._thread = None

    def close(self) -> None:
        """End the thread; waits a moment for its job."""
        thread = self._thread
        self.abandon()
        if thread is not None:
            thread.join(ENDS_WITHIN)


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (item := jobs.get()) is not None:
        job, done = item
        result = job()
        with contextlib.suppress(InvalidStateError):  # its time was over, and nobody waits any more
            done.set_result(result)
        del item, job, done, result  # hold no pixels while waiting


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(_serve(started)), name=name, daemon=True)
        self._thread.start()
        self._loop, self._stop = started.result()

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def answers(self) -> bool:
        """Whether the loop runs, and no coroutine blocks it."""
        try:
            return bool(self.start(asyncio.sleep(0, True)).result(ENDS_WITHIN))
        except TimeoutError:
            return False

    def close(self) -> None:
        """Cancel what runs, and end the thread; a blocked loop is left behind."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(ENDS_WITHIN)


async def _serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
