"""Two defects of upstream (0.26 to 0.30) that make a run wait for ever, mended in the driver."""

from __future__ import annotations

from typing import Any

import zmq
from vllm.distributed.device_communicators import shm_broadcast
from vllm_omni.diffusion.executor.multiproc_executor import MultiprocDiffusionExecutor

_finish_output = getattr(MultiprocDiffusionExecutor, "_finish_output", None)


def make() -> None:
    """Mend both. Idempotent."""
    shm_broadcast.Context = ClosingContext
    if _finish_output is not None:
        MultiprocDiffusionExecutor._finish_output = _finish_also_split


class ClosingContext(zmq.Context):
    """Closes its sockets before it ends.

    Upstream leaves its queues to the garbage collector, which clears a context's weak references to its sockets first;
    the context then waits until somebody else closes them.
    """

    _opened: tuple[Any, ...] = ()

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        """A socket that lives as long as the context."""
        self._opened += (super().socket(*args, **kwargs),)
        return self._opened[-1]

    def destroy(self, linger: int | None = None) -> None:
        """Close every socket, whatever is still to be sent, and end."""
        for socket in self._opened:
            socket.close(linger=0)
        super().destroy(linger)


def _finish_also_split(executor: Any, output_id: str, result: Any, error: BaseException | None) -> None:
    """Upstream loses the output of a batch that it splits up while the output is being unpacked: looked up again here,
    under the lock that both hold.
    """
    parts = executor._batch_split_map.pop(output_id, None)
    if parts is None:
        assert _finish_output is not None
        _finish_output(executor, output_id, result, error)
    else:
        executor._deliver_batch_split(parts, result, None if error is None else str(error))
