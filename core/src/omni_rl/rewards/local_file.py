"""A function out of a Python file that the user names in the configuration."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from omni_rl.errors import ConfigError, PluginError, did_you_mean
from omni_rl.rewards.failures import describe_error


def load_function(file: Path, name: str) -> Callable[[Any], Any]:
    """``name`` from ``file``, a callable of one positional argument. Executes the file, afresh on every call.

    Raises:
        ConfigError: no such file, no such function, or one that cannot be called with one argument.
        PluginError: the file cannot be imported; names the line.
    """
    if not file.is_file():
        near = did_you_mean(file.name, (path.name for path in file.parent.glob("*.py")))
        raise ConfigError(f"the reward file {file} does not exist.{near}", "Set `file` to the path of a Python file.")
    module = _import(file)
    function = getattr(module, name, None)
    if function is None:
        raise ConfigError(f"{file} has no function {name!r}.{did_you_mean(name, _functions(module))}", _offer(module))
    _check_signature(file, name, function)
    return function  # type: ignore[no-any-return]


def _import(file: Path) -> ModuleType:
    digest = hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()
    name = f"omni_rl_local_{digest}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file.", "Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"{file} cannot be imported: {describe_error(error, file.parent)}", _advice(error)) from error
    return module


def _advice(error: BaseException) -> str | None:
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name!r} here; a module beside the file is found when its folder is on PYTHONPATH."
    return None


def _functions(module: ModuleType) -> dict[str, int]:
    """The functions that the file itself defines, with their lines."""
    own = (value for value in vars(module).values() if isinstance(value, FunctionType))
    return {f.__name__: f.__code__.co_firstlineno for f in own if f.__module__ == module.__name__}


def _offer(module: ModuleType) -> str:
    found = ", ".join(f"{name} (line {line})" for name, line in _functions(module).items())
    return f"It defines: {found}. Set `function` to one of them." if found else "It defines no function at all."


def _check_signature(file: Path, name: str, function: Any) -> None:
    if not callable(function):
        raise ConfigError(f"{name!r} in {file} is of type {type(function).__name__}, not a function.")
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", 1)
    signature = inspect.signature(function)
    try:
        signature.bind(object())
    except TypeError as error:
        raise ConfigError(
            f"{file}:{line}: {name}{signature} must take one argument, the RewardBatch.",
            f"Write `def {name}(batch): ...`; it has batch.media, batch.prompts, batch.metadata and batch.uids.",
        ) from error
