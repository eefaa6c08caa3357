"""Runs reward calls beside the driver, which goes on sampling: one thread for plain ones, one event loop for async."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any

from omni_rl.contracts.reward import Reward, RewardBatch


@dataclass(frozen=True)
class Raised:
    """Stands for the answer of a call that raised."""

    error: BaseException


class Calls:
    """Plain rewards run one after the other in one thread, in the order in which they were started.

    Async ones run side by side on one event loop, so a reward that talks to a service must limit itself. Which of the
    two a reward is, its first call shows: a ``score`` that answers an awaitable is awaited on the loop.
    """

    def __init__(self) -> None:
        self._plain = ThreadPoolExecutor(1, thread_name_prefix="omni-rl-reward")
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(_serve(started)), name="omni-rl-reward-loop", daemon=True)
        self._thread.start()
        self._loop, self._stop = started.result()
        self._running: set[Future[None]] = set()  # the event loop itself holds tasks only weakly
        self._closed = False

    def start(self, reward: Reward, batch: RewardBatch, done: Callable[[Any], None]) -> None:
        """Call ``reward.score(batch)``; ``done`` gets its answer, or Raised, in another thread."""
        assert not self._closed, "a reward was called after close()"
        running = asyncio.run_coroutine_threadsafe(self._run(reward, batch, done), self._loop)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, reward: Reward, batch: RewardBatch, done: Callable[[Any], None]) -> None:
        done(await self._answer(reward, batch))

    async def _answer(self, reward: Reward, batch: RewardBatch) -> Any:
        try:
            if inspect.iscoroutinefunction(reward.score):
                return await reward.score(batch)
            answer = await self._loop.run_in_executor(self._plain, _guarded, reward, batch)
            return await answer if inspect.isawaitable(answer) else answer
        except BaseException as error:  # nothing that a reward raises may stop the loop that serves the others
            return Raised(error)

    def close(self) -> None:
        """Wait for the plain call that is running, cancel all others, end both threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._plain.shutdown(cancel_futures=True)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


async def _serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()


def _guarded(reward: Reward, batch: RewardBatch) -> Any:
    try:
        return reward.score(batch)
    except BaseException as error:  # a StopIteration cannot cross a future, and sys.exit() must not end the thread
        return Raised(error)
