"""Runs reward calls in the background while the driver samples: with a time limit, a second attempt, and a watch."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from omni_rl.contracts.reward import Reward, RewardBatch
from omni_rl.rewards.answers import Answer, answer_of, missing, raised, refusal
from omni_rl.rewards.process import OwnProcess
from omni_rl.rewards.surroundings import THREAD, Changes, Snapshot, Visit, Watch
from omni_rl.rewards.threads import EndsGuarded, Line, Loop

ATTEMPTS = 2
STARTS_WITHIN = 1800.0
"""Seconds in which a reward's own process has to be ready, which may load a model first."""


@dataclass(frozen=True)
class Call:
    """One call of a reward.

    Attributes:
        label: the reward's name in messages.
        reward: what is called.
        prompts: the prompt of each sample.
        batch: builds the batch, anew for every attempt, because a reward may change its lists.
        timeout_s: seconds after which the call is given up.
        changed_media: the names of what the reward changed in the batch's media.
    """

    label: str
    reward: Reward
    prompts: tuple[str, ...]
    batch: Callable[[], RewardBatch]
    timeout_s: float
    changed_media: Callable[[], list[str]]


@dataclass(frozen=True)
class _Raised:
    error: BaseException


@dataclass(frozen=True)
class _Ended:
    """What a call returned or raised, and the settings that changed meanwhile."""

    result: Any
    changes: Changes


class _Score:
    """Calls a plain reward. Closes the coroutine that it returned if nobody came to await it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._result: Any = None
        self._left = False

    def __call__(self) -> Any:
        self._result = self._call.reward.score(self._call.batch())
        if self._left:
            self.leave()
        return self._result

    def leave(self) -> None:
        """Nobody will await the result from now on; a reward that still runs is told so when it returns."""
        self._left = True
        if inspect.iscoroutine(self._result) and inspect.getcoroutinestate(self._result) == inspect.CORO_CREATED:
            self._result.close()


class Calls:
    """Plain rewards run one after another in one thread, in the order in which they were started.

    Async rewards run at the same time on one event loop, so a reward that calls a service must limit its own requests.
    A reward counts as async if its ``score`` is a coroutine function or returns an awaitable. A reward in a process of
    its own runs beside all others.

    A call that fails is tried once more, unless it ran into its time limit. Training and validation share one object,
    so that a reward is always called in the same thread.
    """

    def __init__(self) -> None:
        self._supervisor = Loop("omni-rl-reward-supervisor")
        self._loop: Loop | None = None  # runs async rewards; a blocked one is replaced
        self._lines: dict[int, Line] = {}  # by reward process; 0: all plain rewards
        self._running: set[Future[None]] = set()  # the event loop itself holds tasks only weakly
        self._watch = Watch()
        self._guard = EndsGuarded()
        self._closed = False

    def start(self, call: Call, done: Callable[[Answer], None]) -> None:
        """Call the reward in the background; another thread passes its answer to ``done``."""
        assert not self._closed, "a reward was called after close()"
        running = self._supervisor.start(self._run(call, done))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Wait a moment for the running plain call, cancel all others, and end the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._supervisor.close()
        self._guard.close()
        for line in self._lines.values():
            line.close()
        if self._loop is not None:
            self._loop.close()

    async def _run(self, call: Call, done: Callable[[Answer], None]) -> None:
        try:
            answer = await self._attempted(call)
        except Exception as error:  # a mistake of this module must not leave the driver waiting for an answer
            answer = raised(call.label, len(call.prompts), error)
        done(answer)

    async def _attempted(self, call: Call) -> Answer:
        for _ in range(ATTEMPTS):
            try:
                ended = await self._ended(call)
            except TimeoutError:
                return missing(len(call.prompts), _timed_out(call))
            names = [*ended.changes.names, *call.changed_media()]
            if names:
                refused = refusal({call.label, *ended.changes.suspects}, names)
                return Answer([None] * len(call.prompts), refused=refused)
            answer = _answer(call, ended.result)
            if not answer.failed:
                break
        return answer

    async def _ended(self, call: Call) -> _Ended:
        if isinstance(call.reward, OwnProcess):
            return await self._in_own_process(call, call.reward)
        if inspect.iscoroutinefunction(call.reward.score):
            return await self._in_loop(call, lambda: call.reward.score(call.batch()))
        score = _Score(call)
        try:
            ended = await self._in_line(Visit(self._watch, call.label), 0, score, call.timeout_s)
            if inspect.isawaitable(ended.result) and not ended.changes.names:
                return await self._in_loop(call, lambda: ended.result)
            return ended
        finally:
            score.leave()

    async def _in_own_process(self, call: Call, reward: OwnProcess) -> _Ended:
        """The time limit counts from when the process is ready: a new one may have to load a model."""
        try:
            ready = await self._in_line(None, id(reward), reward.ensure_started, STARTS_WITHIN)
            if isinstance(ready.result, _Raised):
                return ready
            return await self._in_line(None, id(reward), lambda: reward.score(call.batch()), call.timeout_s)
        except TimeoutError:
            reward.stop()
            raise

    async def _in_line(self, visit: Visit | None, key: int, job: Callable[[], Any], limit: float) -> _Ended:
        """Run a job in the line's thread; raises TimeoutError after ``limit`` seconds.

        ``visit``: None for what runs in another process, which cannot change this one.
        """
        line = self._lines.setdefault(key, Line())
        async with line.turn:
            running = line.start(lambda: _unwatched(job) if visit is None else _watched(job, visit))
            try:
                return await asyncio.wait_for(asyncio.wrap_future(running), limit)
            except TimeoutError:
                line.abandon()
                if visit is not None:
                    visit.end()
                raise

    async def _in_loop(self, call: Call, score: Callable[[], Any]) -> _Ended:
        loop, visit = self._loop or Loop("omni-rl-reward-loop"), Visit(self._watch, call.label)
        self._loop = loop
        running = loop.start(_awaited(score, visit))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(running), call.timeout_s)
        except TimeoutError:
            visit.end()
            answers = await asyncio.to_thread(loop.answers)
            if not answers and self._loop is loop:
                self._loop = None
            raise


def _unwatched(job: Callable[[], Any]) -> _Ended:
    try:
        return _Ended(job(), Changes())
    except BaseException as error:  # the line's thread must go on
        return _Ended(_Raised(error), Changes())


def _watched(job: Callable[[], Any], visit: Visit) -> _Ended:
    """Run a plain reward, in its thread."""
    visit.begin()
    here = Snapshot(THREAD)
    try:
        result: Any = job()
    except BaseException as error:  # sys.exit() must not end the thread
        result = _Raised(error)
    own, changes = here.restored(), visit.end()
    return _Ended(result, Changes([*own, *changes.names], changes.suspects))


async def _awaited(score: Callable[[], Any], visit: Visit) -> _Ended:
    """Await an async reward, on its loop."""
    visit.begin()
    try:
        result = await score()
    except BaseException as error:  # an exception of one reward must not stop the loop of the others
        result = _Raised(error)
    return _Ended(result, visit.end())


def _answer(call: Call, result: Any) -> Answer:
    if isinstance(result, _Raised):
        return raised(call.label, len(call.prompts), result.error)
    if isinstance(call.reward, OwnProcess):
        return call.reward.answer(call.label, result)
    return answer_of(call.label, result, call.prompts)


def _timed_out(call: Call) -> str:
    return (
        f"reward {call.label!r} did not answer within {call.timeout_s:g} s for {len(call.prompts)} samples. "
        "If it needs longer, raise its `timeout_s`; `process: true` ends it at the limit."
    )
