"""Sends results out of a worker process without the device stream that vLLM-Omni uses for it."""

from __future__ import annotations

import logging
from typing import Any

from vllm_omni.diffusion.data import AsyncDiffusionOutput, AsyncOutputKind
from vllm_omni.diffusion.ipc import pack_diffusion_output_shm
from vllm_omni.diffusion.worker.diffusion_worker import WorkerProc

logger = logging.getLogger(__name__)


def without_streams() -> None:
    """Make workers of whole requests send results directly: vLLM-Omni's sending thread fails on devices without
    streams, and the receiver would wait forever.
    """
    WorkerProc._async_output_loop = _hand_over


def _hand_over(worker: Any) -> None:
    while (item := worker._async_output_queue.get()) is not None:
        output, output_id, _ = item
        worker._enqueue_result(_packed(output, output_id))
        with worker._async_output_done:
            worker._async_output_pending -= 1
            worker._async_output_done.notify_all()


def _packed(output: Any, output_id: str) -> AsyncDiffusionOutput:
    ready = AsyncOutputKind.OUTPUT_READY
    try:
        pack_diffusion_output_shm(output)
    except Exception as error:  # the receiver waits for a result, also after an error
        logger.exception("a result cannot leave its worker")
        return AsyncDiffusionOutput(kind=ready, async_output_id=output_id, error=f"{type(error).__name__}: {error}")
    return AsyncDiffusionOutput(kind=ready, async_output_id=output_id, output=output)
