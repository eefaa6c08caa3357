"""Upstream's defects that would make a run wait for ever."""

from __future__ import annotations

import gc
import threading
import time
from types import SimpleNamespace

import psutil
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

from omni_rl_vllm_omni import repairs


def test_queues_of_an_engine_that_ended_are_collected():
    """In a reference cycle, where the traceback of an exception leaves them. Without the repair this never ends."""
    repairs.make()
    gc.collect()
    threads = psutil.Process().num_threads()
    writer = MessageQueue(n_reader=1, n_local_reader=1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    assert psutil.Process().num_threads() > threads, "each has sockets, served by threads"
    cycle = SimpleNamespace(queues=(writer, reader))
    cycle.itself = cycle
    del writer, reader, cycle
    collected = threading.Thread(target=gc.collect, daemon=True)
    collected.start()
    collected.join(30)
    assert not collected.is_alive()
    ended = time.monotonic() + 5  # the system forgets a joined thread some milliseconds after Python does
    while psutil.Process().num_threads() > threads and time.monotonic() < ended:
        time.sleep(0.01)
    assert psutil.Process().num_threads() == threads
