"""The process group of a run: which rank this process is, and how ranks find each other.

The environment says so, in the variables that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
Tensors on the CPU travel through gloo, those on GPUs through NCCL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from omni_rl.errors import RunError

STORE = "OMNI_RL_STORE"
"""The variable that names a file through which the ranks of one machine find each other, in place of a port."""


_FIND = (
    "start the same command on all machines; launcher.address must be reachable from all of them, with a free port "
    "(torchrun sets MASTER_ADDR and MASTER_PORT)"
)


@dataclass(frozen=True)
class Ranks:
    """Ranks that work together, of which this process is one.

    Attributes:
        rank: the number of this process among them.
        size: how many they are.
        group: their process group; None: that of the whole run.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None = None


def everyone() -> Ranks:
    """All ranks of the run."""
    return Ranks(rank(), world_size())


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if is_joined() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if is_joined() else 1


def local_rank() -> int:
    """The number of this process on its node, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_joined() or is_started_in_ranks() else 0


def local_world_size() -> int:
    """Number of ranks on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if is_joined() else 1


def is_joined() -> bool:
    """Whether this process is in a process group."""
    return dist.is_available() and dist.is_initialized()


def is_started_in_ranks() -> bool:
    """Whether the environment says that this process is one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextlib.contextmanager
def joined(timeout_s: float) -> Iterator[None]:
    """A context in the process group that the environment names; nothing if it names none, or if it is joined already.

    An operation that other ranks do not join within ``timeout_s`` seconds raises RuntimeError.

    Raises:
        RunError: the ranks do not find each other, or another one has ended or does not answer.
    """
    if is_joined() or not is_started_in_ranks():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_rank())
    method = Path(os.environ[STORE]).as_uri() if STORE in os.environ else None  # None: MASTER_ADDR and MASTER_PORT
    timeout = timedelta(seconds=timeout_s)
    try:
        dist.init_process_group(backend, method, timeout, int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))
    except (RuntimeError, ValueError) as error:
        raise _not_found(error, timeout_s) from error
    try:
        yield
    except RuntimeError as error:
        why = lost(error)
        if why is None:
            raise
        raise RunError(why) from error
    finally:
        dist.destroy_process_group()


def lost(error: BaseException) -> str | None:
    """A sentence, if an error of torch.distributed means that another rank has ended or does not answer; else None."""
    text = str(error)
    if not (isinstance(error, dist.DistError) or "gloo/transport" in text):
        return None
    if "timed out" in text.lower() or "timeout" in text.lower():
        return "the other ranks did not answer within launcher.timeout_s: one of them hangs, or needs more time"
    return "the connection to another rank was lost: it has ended, or the network between the machines failed"


def _not_found(error: Exception, timeout_s: float) -> RunError:
    place = f"{os.environ.get('MASTER_ADDR', '(not set)')}:{os.environ.get('MASTER_PORT', '(not set)')}"
    where = "on this machine" if STORE in os.environ else f"at {place}, the address of the first machine,"
    what = f"the {os.environ['WORLD_SIZE']} ranks of this run did not find each other {where} within {timeout_s:g} s"
    return RunError(f"{what}: {str(error).partition(chr(10))[0]}", _FIND)
