"""Settings of the whole process that a reward may not change, because sampling, training and other rewards use them."""

from __future__ import annotations

import contextlib
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

AUTOCAST = ("cpu", "cuda")
WORDS = 624
AT_ONCE = 500
MOST_DRAWS = 50_000
"""Blocks of 624 draws of the global generator of ``random`` or numpy that count as draws; then it was seeded again."""


class Setting(NamedTuple):
    """One setting: how its user calls it, how to read it, and how to set it to a value that was read.

    ``silent``: a change is set back and allowed, because libraries make it when they are first imported.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    silent: bool = False


def _deterministic() -> tuple[bool, bool]:
    algorithms = torch.are_deterministic_algorithms_enabled()
    return algorithms, torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # another program deleted it
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _flag(owner: Any, name: str) -> Setting:
    label = f"{owner.__name__}.{name}"
    return Setting(label, lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _default_device() -> str:
    return str(torch.get_default_device())


def _set_default_device(value: str) -> None:
    torch.set_default_device(None if value == "cpu" else value)  # None also removes the slower mode of dispatch


def _anomalies() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_anomalies(value: tuple[bool, bool]) -> None:
    torch.set_anomaly_enabled(*value)


def _timer() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _set_timer(value: bool) -> None:
    if not value:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _umask() -> str:
    """The mask of new files; only Linux tells it without setting it."""
    try:
        with open("/proc/self/status") as status:
            return next((line.split()[1] for line in status if line.startswith("Umask")), "")
    except OSError:
        return ""


def _set_umask(value: str) -> None:
    os.umask(int(value, 8))


def _locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _set_locale(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _warnings() -> tuple[Any, ...]:
    return tuple(warnings.filters)


def _set_warnings(value: tuple[Any, ...]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _autocast() -> tuple[tuple[bool, torch.dtype], ...]:
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST)


def _set_autocast(value: tuple[tuple[bool, torch.dtype], ...]) -> None:
    for kind, (enabled, dtype) in zip(AUTOCAST, value, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _set_inference_mode(value: bool) -> None:
    """Torch has no function for it: a guard that is never left sets it for the rest of the thread."""
    guard = torch.inference_mode(value)
    guard.__enter__()
    _GUARDS.append(guard)


_GUARDS: list[Any] = []


PROCESS = (
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("float32 matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting("torch's deterministic algorithms", _deterministic, _set_deterministic),
    _flag(torch.backends.cudnn, "deterministic"),
    _flag(torch.backends.cudnn, "benchmark"),
    _flag(torch.backends.cudnn, "enabled"),
    Setting("torch's default device", _default_device, _set_default_device),
    Setting("torch's anomaly detection", _anomalies, _set_anomalies),
    Setting("the working folder", _working_folder, _enter),
    Setting("the timer of signal.alarm", _timer, _set_timer),
    Setting("the umask of the process", _umask, _set_umask),
    Setting("the locale", _locale, _set_locale, silent=True),
    Setting("the filters of warnings", _warnings, _set_warnings, silent=True),
)
THREAD = (
    Setting("torch's inference mode", torch.is_inference_mode_enabled, _set_inference_mode),
    Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's autocast", _autocast, _set_autocast),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("numpy's treatment of errors", np.geterr, lambda value: np.seterr(**value), silent=True),
)


class Output:
    """``sys.stdout`` and ``sys.stderr`` with the files behind them, which a call may replace or close."""

    def __init__(self) -> None:
        self._streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        self._kept = {number: os.dup(number) for number in (1, 2) if _identity(number)}
        self._identities = {number: _identity(number) for number in self._kept}

    def changes(self) -> list[str]:
        """``sys.stdout`` or ``sys.stderr``, if it is another stream, closed, or writes to another file."""
        return [name for number, name in ((1, "stdout"), (2, "stderr")) if self._differs(number, name)]

    def _differs(self, number: int, name: str) -> bool:
        stream, kept = getattr(sys, name), self._streams[name]
        moved = number in self._kept and _identity(number) != self._identities[number]
        return stream is not kept or moved or bool(getattr(stream, "closed", False))

    def restore(self) -> None:
        """Open the files again and put the streams back."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            if number in self._kept and _identity(number) != self._identities[number]:
                os.dup2(self._kept[number], number)
            stream = self._streams[name]
            if getattr(stream, "closed", False):
                stream = os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8", errors="replace")
            setattr(sys, name, stream)

    def close(self) -> None:
        """Close the copies of the files."""
        for copy in self._kept.values():
            with contextlib.suppress(OSError):
                os.close(copy)
        self._kept = {}


def _identity(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True)
class _Generators:
    """The states of the global generators. Draws are allowed; a new seed is not, because others draw from them too."""

    torch_seed: int
    torch_state: torch.Tensor
    python: Any
    numpy: Any

    @staticmethod
    def now() -> _Generators:
        state = np.random.get_state(legacy=True)
        return _Generators(torch.initial_seed(), torch.get_rng_state(), random.getstate(), state)

    def changes(self) -> list[str]:
        now = _Generators.now()
        found = [] if now.torch_seed == self.torch_seed else ["the seed of torch"]
        if not _drawn(_python_words(self.python), _python_words(now.python)):
            found.append("the seed of random")
        if not _drawn((np.asarray(self.numpy[1]), self.numpy[2]), (np.asarray(now.numpy[1]), now.numpy[2])):
            found.append("the seed of numpy.random")
        return found

    def restore(self) -> None:
        torch.set_rng_state(self.torch_state)
        random.setstate(self.python)
        np.random.set_state(self.numpy)


def _python_words(state: Any) -> tuple[np.ndarray, int]:
    *words, position = state[1]
    return np.array(words, np.uint32), position


def _drawn(before: tuple[np.ndarray, int], after: tuple[np.ndarray, int]) -> bool:
    """Whether draws from a Mersenne Twister (its 624 words, its position) lead from one state to the other."""
    if np.array_equal(before[0], after[0]):
        return after[1] >= before[1]
    source, target = _twister(before[0], WORDS), _twister(after[0], 0).random_raw(WORDS)
    for _ in range(MOST_DRAWS // AT_ONCE):
        if (source.random_raw(AT_ONCE * WORDS).reshape(AT_ONCE, WORDS) == target).all(axis=1).any():
            return True
    return False


def _twister(words: np.ndarray, position: int) -> np.random.MT19937:
    twister = np.random.MT19937()
    state: Any = twister.state
    state["state"] = {"key": words, "pos": position}
    twister.state = state
    return twister


class Snapshot:
    """The values of some settings."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._values = [(setting, setting.read()) for setting in settings]

    def restored(self) -> list[str]:
        """Set everything back, and return the names of what was different and is not allowed to be."""
        different = [(setting, value) for setting, value in self._values if setting.read() != value]
        for setting, value in different:
            setting.write(value)
        return [setting.name for setting, _ in different if not setting.silent]


class Surroundings:
    """A snapshot of the settings of the whole process, its output and the seeds."""

    def __init__(self) -> None:
        self._settings = Snapshot(PROCESS)
        self._generators = _Generators.now()
        self._output = Output()

    def restored(self) -> list[str]:
        """Set everything back, and return the names of what was different."""
        settings, streams, seeds = self._settings.restored(), self._output.changes(), self._generators.changes()
        if streams:
            self._output.restore()
        if seeds:
            self._generators.restore()
        return [*settings, *(f"sys.{name}" for name in streams), *seeds]

    def close(self) -> None:
        """Release the copies of the output's files."""
        self._output.close()


@dataclass
class Changes:
    """What was different after a call.

    Attributes:
        names: of the settings.
        suspects: the labels of the rewards that ran then.
    """

    names: list[str] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)


class Watch:
    """Compares the surroundings before and after calls, of which several may run at the same time.

    A difference is a change of one of the calls that ran then. If several did, each of them is told, with the labels of
    all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: Surroundings | None = None
        self._running: dict[Visit, Changes] = {}

    def begin(self, visit: Visit) -> None:
        """A call begins. The first of several calls takes the snapshot."""
        with self._lock:
            if self._running:
                self._tell()  # what is different now was changed by the others
            else:
                self._before = Surroundings()
            self._running[visit] = Changes()

    def end(self, visit: Visit) -> Changes:
        """A call has ended: set everything back, and return what was different."""
        with self._lock:
            self._tell()
            changes = self._running.pop(visit)
            if not self._running and self._before is not None:
                self._before.close()
            return changes

    def _tell(self) -> None:
        assert self._before is not None, "a call ended that did not begin"
        names = self._before.restored()
        labels = {visit.label for visit in self._running} if names else set()
        for changes in self._running.values():
            changes.names.extend(names)
            changes.suspects.update(labels)


class Visit:
    """One call under a watch. It may be given up; what it does after that is not set back any more."""

    def __init__(self, watch: Watch, label: str) -> None:
        self.label = label
        self._watch = watch
        self._lock = threading.Lock()
        self._open = False
        self._over = False

    def begin(self) -> None:
        """The call begins."""
        with self._lock:
            if not self._over:
                self._open = True
                self._watch.begin(self)

    def end(self) -> Changes:
        """The call has ended or is given up; only the first time counts."""
        with self._lock:
            counts, self._open, self._over = self._open, False, True
            return self._watch.end(self) if counts else Changes()
