"""The process of a reward with ``process: true``: builds the reward, then answers batches until the run ends."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Awaitable
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO

from omni_rl.contracts.spec import LocalFile, Part
from omni_rl.errors import UserError
from omni_rl.plugins import runspec
from omni_rl.plugins.blame import describe_error
from omni_rl.plugins.local import Registry
from omni_rl.rewards.answers import Answer, answer_of, raised
from omni_rl.rewards.frames import batch_of, receive, send

LABEL = "reward"
"""Stands for the reward's label in messages; the run puts its own."""


def main() -> None:
    """Serve one reward over the standard input and output, which the reward itself does not see."""
    requests, answers = _private_pipes()
    hello = receive(requests)
    sys.path[:] = hello["path"]
    try:
        reward = _built(hello)
        scope = reward.scope
    except BaseException as error:  # whatever the constructor raises is an answer
        hint = error.hint if isinstance(error, UserError) else None
        send(answers, {"error": error.what if isinstance(error, UserError) else describe_error(error), "hint": hint})
        return
    send(answers, {"scope": scope})
    _serve(reward, _queued(requests), answers)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The run's pipes under new numbers. What the reward prints goes to the standard error."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _built(hello: dict[str, Any]) -> Any:
    files = [runspec.load_file(LocalFile(**file)) for file in hello["files"]]
    part = Part(**hello["part"])
    plugin, _ = runspec.load_part(part, Registry(files))
    return runspec.build(plugin, part.options)


def _queued(requests: BinaryIO) -> SimpleQueue[dict[str, Any]]:
    """Messages, read by a thread: when the run has ended, it ends this process, even during a call."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        try:
            while True:
                queue.put(receive(requests))
        finally:
            os._exit(0)

    Thread(target=read, daemon=True).start()
    return queue


def _serve(reward: Any, queue: SimpleQueue[dict[str, Any]], answers: BinaryIO) -> None:
    loop = asyncio.new_event_loop()  # one for all calls: a client that the reward keeps belongs to its loop
    while True:
        answer = _answer(reward, queue.get(), loop)
        send(answers, {"scores": answer.scores, "reasons": answer.reasons, "failed": answer.failed})


def _answer(reward: Any, message: dict[str, Any], loop: asyncio.AbstractEventLoop) -> Answer:
    """Calls the reward outside of the loop: a plain one may run a loop of its own."""
    batch = batch_of(message)
    try:
        returned = reward.score(batch)
        returned = loop.run_until_complete(_result(returned)) if inspect.isawaitable(returned) else returned
    except BaseException as error:  # as in the run's own threads, sys.exit() is a failed call
        return raised(LABEL, len(batch), error)
    return answer_of(LABEL, returned, batch.prompts)


async def _result(answer: Awaitable[Any]) -> Any:
    return await answer


if __name__ == "__main__":
    main()
