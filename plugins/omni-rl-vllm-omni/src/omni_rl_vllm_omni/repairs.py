"""Fixes, in the driver, for two defects of vLLM-Omni (0.26 to 0.30) that make a run wait forever."""

from __future__ import annotations

from typing import Any

import zmq
from vllm.distributed.device_communicators import shm_broadcast
from vllm_omni.diffusion.executor.multiproc_executor import MultiprocDiffusionExecutor

_finish_output = getattr(MultiprocDiffusionExecutor, "_finish_output", None)


def make() -> None:
    """Apply both fixes. Idempotent."""
    shm_broadcast.Context = ClosingContext
    if _finish_output is not None:
        MultiprocDiffusionExecutor._finish_output = _finish_also_split


class ClosingContext(zmq.Context):
    """Closes its sockets before it ends.

    vLLM-Omni leaves its queues to the garbage collector. That first clears the context's weak references to its
    sockets; the context then waits forever for other code to close them.
    """

    _opened: tuple[Any, ...] = ()

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        """A socket that exists as long as the context."""
        self._opened += (super().socket(*args, **kwargs),)
        return self._opened[-1]

    def destroy(self, linger: int | None = None) -> None:
        """Close every socket, even with unsent data, and end."""
        for socket in self._opened:
            socket.close(linger=0)
        super().destroy(linger)


def _finish_also_split(executor: Any, output_id: str, result: Any, error: BaseException | None) -> None:
    """vLLM-Omni loses the output of a batch if it splits the batch while the output is being unpacked. This looks the
    output up again, under the lock that both operations hold.
    """
    parts = executor._batch_split_map.pop(output_id, None)
    if parts is None:
        assert _finish_output is not None
        _finish_output(executor, output_id, result, error)
    else:
        executor._deliver_batch_split(parts, result, None if error is None else str(error))
