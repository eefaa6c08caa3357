"""The processes of vLLM-Omni, and a thread that communicates with them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping
from itertools import count
from queue import SimpleQueue
from typing import Any

from omni_rl.authoring.engine import StderrTee
from omni_rl.errors import RunError

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # read when vLLM is imported; fewer messages

from vllm.v1.engine.exceptions import EngineDeadError
from vllm_omni.entrypoints.async_omni import AsyncOmni
from vllm_omni.inputs.data import OmniDiffusionSamplingParams

from omni_rl_vllm_omni import repairs

repairs.make()


class Server:
    """One engine of vLLM-Omni; answers arrive in the order in which requests finish."""

    def __init__(self, timeout_s: float, arguments: Mapping[str, Any]) -> None:
        self._timeout_s = timeout_s
        self._omni = _started(arguments)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="omni-rl-vllm-omni", daemon=True)
        self._thread.start()
        self._answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._closed = self._asleep = False
        self._numbers = count()  # of requests: vLLM-Omni may still hold an earlier one

    def ask(self, ticket: int, prompt: dict[str, Any], sampling: OmniDiffusionSamplingParams) -> None:
        """Send a request; :meth:`answer` returns its result."""
        asyncio.run_coroutine_threadsafe(self._one(ticket, prompt, sampling), self._loop)

    def answer(self) -> tuple[int, Any]:
        """Wait for the next result: the ticket of its request, and vLLM-Omni's ``OmniRequestOutput`` or the
        exception.
        """
        return self._answers.get()

    async def _one(self, ticket: int, prompt: dict[str, Any], sampling: OmniDiffusionSamplingParams) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                asked = self._omni.generate(
                    prompt, request_id=str(next(self._numbers)), sampling_params_list=[sampling]
                )
                outputs = [output async for output in asked]
            self._answers.put((ticket, outputs[-1]))
        except BaseException as error:  # the caller waits for a result, also after an error
            self._answers.put((ticket, error))

    def ended(self, answer: Any) -> bool:
        """Whether this result says that the processes, and with them all current requests, have ended."""
        return isinstance(answer, EngineDeadError) or (isinstance(answer, BaseException) and self._omni.errored)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker extension; returns the first worker's result.

        Raises:
            RunError: it failed (with the worker's message), or did not answer in time.
        """
        found = self._wait(self._omni.collective_rpc(method, args=arguments))
        while isinstance(found, list):
            found = found[0]
        if isinstance(found, dict) and (found.get("supported") is False or "error" in found):
            raise RunError(f"vLLM-Omni's worker failed in {method}: {found.get('error') or found.get('reason')}")
        return found

    def sleep(self) -> None:
        """Move the weights out of the GPU's memory, until :meth:`wake`."""
        self._wait(self._omni.sleep(level=1))
        self._asleep = True

    def wake(self) -> None:
        """Move the weights back to the GPU if they are not there."""
        if self._asleep:
            self._wait(self._omni.wake_up())
            self._asleep = False

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(self._timeout_s)
        except TimeoutError as error:
            raise RunError(f"vLLM-Omni has not answered for {self._timeout_s:g} s (rollout.timeout_s)") from error

    def close(self) -> None:
        """End the processes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._wait(self._drop())
        self._omni.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drop(self) -> None:
        """Cancel the current requests, and wait until they have ended."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _started(arguments: Mapping[str, Any]) -> AsyncOmni:
    """Start the engine of vLLM-Omni.

    Raises:
        RunError: it does not start; with the message of the process that failed.
    """
    stderr = StderrTee()
    try:
        with stderr.recording():
            return AsyncOmni(**arguments)
    except Exception as error:
        reason = stderr.reason() or f"{type(error).__name__}: {error}"
        raise RunError(f"vLLM-Omni does not start: {reason}") from error
