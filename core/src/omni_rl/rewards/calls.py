"""Runs reward calls in the background while the driver samples: plain rewards in one thread, async ones in a loop."""

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
    """Takes the place of the answer when a call raises."""

    error: BaseException


class Calls:
    """Plain rewards run one after another in one thread, in the order in which they were started.

    Async rewards run at the same time on one event loop, so a reward that calls a service must limit its own requests.
    A reward counts as async if its ``score`` is a coroutine function or returns an awaitable.
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
        """Call ``reward.score(batch)`` in the background; another thread passes its answer, or Raised, to ``done``."""
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
        except BaseException as error:  # an exception of one reward must not stop the loop of the others
            return Raised(error)

    def close(self) -> None:
        """Wait for the running plain call, cancel all others, and end both threads. A second call does nothing."""
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
