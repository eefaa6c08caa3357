"""Loads the user's Python files: local plugins (``plugins: [./my_reward.py]``) and functions (``reward.file``).

A local plugin contains functions with the marker ``hookimpl``, or declares new keys, or both::

    OMNI_RL = {"rewards": {"my_reward": MyReward}}
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from omni_rl.contracts.input_files import is_file, names_in, read_regular
from omni_rl.errors import ConfigError, PluginError, did_you_mean
from omni_rl.plugins.blame import describe_error
from omni_rl.plugins.discovery import KINDS, Offer, find, load, offers
from omni_rl.plugins.local_files import Text, announce, module_name
from omni_rl.plugins.moved import advice, is_about_omni_rl

DECLARATION = "OMNI_RL"
PYTHON = 16 * 1024**2
"""Largest Python file of a user, in bytes."""


def read_source(path: str | Path) -> str:
    """The text of a Python file, decoded as Python decodes it.

    Raises:
        PluginError: the file does not exist or is not text.
    """
    try:
        return importlib.util.decode_source(read_regular(Path(path), PYTHON, PluginError))
    except PluginError as error:
        hint = "Correct the path under `plugins:` in the configuration."
        raise PluginError(f"The local plugin cannot be used: {error.what}", hint) from error
    except (UnicodeDecodeError, SyntaxError) as error:
        raise PluginError(f"{path} is not Python text: {error}.", "Save it as UTF-8.") from error


def load_file(path: str | Path) -> ModuleType:
    """Import a Python file. The same file with the same content is imported once per process.

    Raises:
        PluginError: the file is missing, or its code raises an error; gives the line in the user's file.
    """
    return load_source(read_source(path), str(Path(path).resolve()))


def load_function(file: Path, name: str) -> Callable[[Any], Any]:
    """The function ``name`` of ``file``, which takes one positional argument.

    Raises:
        ConfigError: the file or the function does not exist, or cannot be called with one argument.
        PluginError: the file cannot be imported; gives the line.
    """
    if not is_file(file):
        near = did_you_mean(file.name, (name for name in names_in(file.parent) if name.endswith(".py")))
        raise ConfigError(f"the reward file {file} does not exist.{near}", "Set `file` to the path of a Python file.")
    if file.suffix != ".py":
        raise ConfigError(f"{file} is not a Python file.", "Its name must end in .py.")
    _find_neighbours(file)
    module = load_file(file)
    function = getattr(module, name, None)
    if function is None:
        lines = _functions(module)
        listed = ", ".join(f"{each} (line {line})" for each, line in lines.items())
        hint = f"It defines: {listed}. Set `function` to one of them." if lines else "It defines no function."
        raise ConfigError(f"{file} has no function {name!r}.{did_you_mean(name, lines)}", hint)
    _check_signature(file, name, function)
    return function  # type: ignore[no-any-return]


def _find_neighbours(file: Path) -> None:
    """Let the file import the modules beside it; installed packages come first.

    Raises:
        PluginError: another file's neighbour of the same name is imported already, so this file would get that one.
    """
    folder = str(file.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    for name in _imported(file):
        beside, known = file.parent / f"{name}.py", getattr(sys.modules.get(name), "__file__", None)
        if beside.is_file() and known is not None and Path(known).resolve() != beside.resolve():
            raise PluginError(
                f"{file} imports {name!r}, but another module of this name is already imported: {known}.",
                f"Rename {beside.name}, and the import.",
            )


def neighbours(file: Path) -> list[Path]:
    """The modules and packages beside a Python file that it imports, and those that they import; sorted."""
    found: set[Path] = set()
    to_read = [file]
    while to_read:
        for name in _imported(to_read.pop()):
            package = file.parent / name
            inside = package.rglob("*.py") if is_file(package / "__init__.py") else [file.parent / f"{name}.py"]
            new = {each for each in inside if is_file(each) and each != file} - found
            found |= new
            to_read += new
    return sorted(found)


def _imported(file: Path) -> set[str]:
    """The top names that a file imports anywhere; none if it is not Python, which its import reports."""
    try:
        nodes = list(ast.walk(ast.parse(read_source(file))))
    except (SyntaxError, ValueError, PluginError, RecursionError):
        return set()
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | named}


def _functions(module: ModuleType) -> dict[str, int]:
    """The functions that the file itself defines, with their lines."""
    own = (value for value in vars(module).values() if isinstance(value, FunctionType))
    return {f.__name__: f.__code__.co_firstlineno for f in own if f.__module__ == module.__name__}


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


def load_source(content: str, path: str) -> ModuleType:
    """Import ``content`` as the content of the file ``path``, which does not have to exist in this process."""
    name = module_name(content, path)
    if name in sys.modules:
        return sys.modules[name]
    announce(name, content, path)
    spec = importlib.util.spec_from_loader(name, Text(content, path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        _check_declaration(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, PluginError):
            raise
        what = f"{path} cannot be imported: {describe_error(error, Path(path).parent)}"
        raise PluginError(what, _import_hint(path, content, error)) from error
    return module


def _import_hint(path: str, content: str, error: BaseException) -> str:
    if moved := is_about_omni_rl(error) and advice([content]):
        return "\n  ".join(moved)
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing and Path(path).with_name(f"{missing.partition('.')[0]}.py").exists():
        return (
            "A local plugin is one file, so that every process of the run can import it: move the code of "
            f"{missing!r} into it, or install both as a package."
        )
    return f"Install {missing!r} in this environment." if missing else f"To see the whole error: python {path}"


def declared(module: ModuleType) -> Mapping[str, Mapping[str, object]]:
    """The keys that a local plugin declares: {kind: {key: object}}."""
    declaration: Mapping[str, Mapping[str, object]] = getattr(module, DECLARATION, {})
    return declaration


def _check_declaration(module: ModuleType) -> None:
    declaration: Any = getattr(module, DECLARATION, {})
    example = f'For example: {DECLARATION} = {{"rewards": {{"my_reward": MyReward}}}}; kinds: {", ".join(KINDS)}.'
    if not isinstance(declaration, Mapping):
        raise PluginError(f"{module.__file__}: {DECLARATION} must be a mapping of kinds.", example)
    for kind, keys in declaration.items():
        if kind not in KINDS:
            raise PluginError(
                f"{module.__file__}: {DECLARATION} has no kind {kind!r}.{did_you_mean(str(kind), KINDS)}", example
            )
        if not isinstance(keys, Mapping):
            raise PluginError(f"{module.__file__}: {DECLARATION}[{kind!r}] must map keys to objects.", example)


class Registry:
    """All plugins that a run can use: those that its local files declare, and those that are installed."""

    def __init__(self, modules: Sequence[ModuleType] = ()) -> None:
        self._local: dict[tuple[str, str], tuple[object, str]] = {}
        for module in modules:
            for kind, keys in declared(module).items():
                for key, value in keys.items():
                    self._declare(kind, key, value, str(module.__file__))

    def _declare(self, kind: str, key: str, value: object, source: str) -> None:
        if (kind, key) in self._local:
            raise PluginError(
                f"{KINDS[kind].word} {key!r} is declared by {self._local[kind, key][1]} and by {source}.", "Rename one."
            )
        self._local[kind, key] = (value, source)

    def keys(self, kind: str) -> list[str]:
        """Every key of a kind, sorted."""
        local = {key for each, key in self._local if each == kind}
        return sorted(local | {offer.key for offer in offers(kind)})

    def find(self, kind: str, key: str, distribution: str | None = None) -> Offer | None:
        """The installed offer that ``get`` would load, or None when a local file declares the key."""
        if distribution is None and (kind, key) in self._local:
            return None
        return find(kind, key, distribution)

    def get(self, kind: str, key: str, distribution: str | None = None) -> tuple[Any, str]:
        """The object of a key, and its source: a file's path or ``<distribution> <version>``.

        A local file is used before installed distributions, unless ``distribution`` names one of them.

        Raises:
            PluginError: as :func:`omni_rl.plugins.discovery.find` and ``load``.
        """
        offer = self.find(kind, key, distribution)
        return self._local[kind, key] if offer is None else (load(offer), offer.source)
