"""Messages between the run and a reward in a process of its own: JSON, followed by the bytes of the media.

A message is the length of its JSON text (8 bytes, little endian), the text, and the arrays that its key ``media``
describes. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import numpy as np

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch

LENGTH = 8


def send(stream: BinaryIO, message: dict[str, Any], arrays: list[np.ndarray] | None = None) -> None:
    """Write one message."""
    text = json.dumps(message).encode()
    stream.write(len(text).to_bytes(LENGTH, "little") + text)
    for array in arrays or []:
        stream.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any]:
    """Read the next message; its media are read-only arrays.

    Raises:
        EOFError: the other process has ended.
    """
    message: dict[str, Any] = json.loads(_exactly(stream, int.from_bytes(_exactly(stream, LENGTH), "little")))
    for each in (media for row in message.get("media", []) for media in row.values()):
        dtype = np.dtype(each["dtype"])
        data = _exactly(stream, math.prod(each["shape"]) * dtype.itemsize)
        each["data"] = np.frombuffer(data, dtype).reshape(each["shape"])
    return message


def send_batch(stream: BinaryIO, batch: RewardBatch) -> None:
    """Write a batch."""
    rows = [{kind: _described(media) for kind, media in row.items()} for row in batch.media]
    fields = {"prompts": batch.prompts, "metadata": [dict(row) for row in batch.metadata], "uids": batch.uids}
    send(stream, {"media": rows, **fields}, [media.data for row in batch.media for media in row.values()])


def batch_of(message: dict[str, Any]) -> RewardBatch:
    """The batch of a message of :func:`send_batch`."""
    media = [
        {kind: Media(each["kind"], each["data"], each["rate"]) for kind, each in row.items()}
        for row in message["media"]
    ]
    return RewardBatch(media, message["prompts"], message["metadata"], message["uids"])


def _described(media: Media) -> dict[str, Any]:
    return {"kind": media.kind, "dtype": media.data.dtype.str, "shape": list(media.data.shape), "rate": media.rate}


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
