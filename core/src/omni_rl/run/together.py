"""Work that each rank does for itself, and whose errors and signals end all ranks alike.

Every rank must call these functions equally often and in the same order. With one process they only do the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from omni_rl.parallel.agreement import OtherRankFailedError
from omni_rl.parallel.exchange import from_rank_0, gathered
from omni_rl.parallel.group import rank, world_size
from omni_rl.run import error_data
from omni_rl.run.signals import Stopped, ends_at_once

T = TypeVar("T")

_KNOWN_TO_ALL: list[BaseException] = []
"""Errors that all ranks have raised."""


def together(work: Callable[[], T]) -> T:
    """The result of this rank's work, after all ranks have done theirs.

    Raises:
        BaseException: the error of this rank's work, or the first other rank's, which then names that rank; a signal
            that ended the work of any rank counts more than errors.
    """
    return _together(work, contextlib.nullcontext())


def drawn_together(work: Callable[[], T], alone: bool = True) -> T:
    """:func:`together`, for work that a signal may end.

    Args:
        alone: whether a rank needs no other for this work. If it does, a signal waits for the end of the work: a rank
            that leaves it would let the others wait.
    """
    return _together(work, ends_at_once() if alone else contextlib.nullcontext())


def _together(work: Callable[[], T], context: contextlib.AbstractContextManager[None]) -> T:
    if world_size() == 1:
        return work()
    failed: BaseException | None = None
    try:
        with context:
            result = work()
    except OtherRankFailedError:
        _raise_alike(None, gathered(None))
        raise
    except (Exception, Stopped, KeyboardInterrupt, SystemExit) as error:
        if any(error is each for each in _KNOWN_TO_ALL):  # the work was together, too
            raise
        failed = error
    _raise_alike(failed, gathered(_told(failed)))
    return result


def on_rank_0(work: Callable[[], T]) -> T:
    """Do something on rank 0 only; all ranks get its result, which must be JSON data."""
    result: Any = together(lambda: work() if rank() == 0 else None)
    return result if world_size() == 1 else from_rank_0(result)  # type: ignore[no-any-return]


def _told(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, Stopped):
        return {"signal": error.number}
    return error_data.to_json(error)


def _raise_alike(own: BaseException | None, told: list[dict[str, Any] | None]) -> None:
    error = _common(own, told)
    if error is not None:
        _KNOWN_TO_ALL.append(error)
        raise error


def _common(own: BaseException | None, told: list[dict[str, Any] | None]) -> BaseException | None:
    signals = [each["signal"] for each in told if each and "signal" in each]
    if signals:
        return own if isinstance(own, Stopped) else Stopped(signals[0])
    if own is not None:
        return own
    others = ((number, each) for number, each in enumerate(told) if each is not None)
    return next((error_data.from_json(each, f"rank {number}: ") for number, each in others), None)
