"""Plugins that are single files of the run: ``plugins: [./my_reward.py]``.

Such a file marks functions with ``hookimpl``, or declares new keys, or both::

    OMNI_RL = {"rewards": {"my_reward": MyReward}}
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omni_rl.errors import PluginError, did_you_mean
from omni_rl.plugins.blame import place, summary
from omni_rl.plugins.discovery import KINDS, Offer, find, load, offers
from omni_rl.plugins.moved import advice, is_about_omni_rl

DECLARATION = "OMNI_RL"


class _Text(importlib.abc.ExecutionLoader):
    """Imports a module from text, so that a run's files reach processes that cannot see them."""

    def __init__(self, content: str, path: str) -> None:
        self.content, self.path = content, path

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_source(self, fullname: str) -> str:
        return self.content


def read_source(path: str | Path) -> str:
    """The text of a Python file, decoded as Python would.

    Raises:
        PluginError: the file does not exist or is not text.
    """
    try:
        return importlib.util.decode_source(Path(path).read_bytes())
    except OSError as error:
        raise PluginError(
            f"The local plugin {path} cannot be read: {error.strerror}.",
            "Paths stand under `plugins:` in the configuration.",
        ) from error
    except (UnicodeDecodeError, SyntaxError) as error:
        raise PluginError(f"The local plugin {path} is not Python text: {error}.", "Save it as UTF-8.") from error


def load_file(path: str | Path) -> ModuleType:
    """Import a local plugin; the same file is imported once per process.

    Raises:
        PluginError: the file is missing or its code fails; names the user's own line.
    """
    return load_source(read_source(path), str(Path(path).resolve()))


def load_source(content: str, path: str) -> ModuleType:
    """Import ``content`` as if it stood in the file ``path``, which need not exist here."""
    digest = hashlib.sha256(f"{path}\0{content}".encode()).hexdigest()
    name = f"omni_rl_local_{Path(path).stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _Text(content, path))
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
        raise _failed(path, content, error) from error
    return module


def _failed(path: str, content: str, error: BaseException) -> PluginError:
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if moved := is_about_omni_rl(error) and advice([content]):
        hint = "\n  ".join(moved)
    elif missing and Path(path).with_name(f"{missing.partition('.')[0]}.py").exists():
        hint = "A local plugin is one file, so that it reaches every process: move that code into it, or package both."
    else:
        hint = f"Try it alone: python {path}"
    return PluginError(f"The local plugin {place(error, inside=path) or path} fails.", f"{summary(error)}\n  {hint}")


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
    """Everything a run can ask for by key: what its local files declare, then what is installed."""

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
        """The object behind a key, and its source: a file's path or ``<distribution> <version>``.

        A local file wins over installed distributions unless ``distribution`` names one of these.

        Raises:
            PluginError: as :func:`omni_rl.plugins.discovery.find` and ``load``.
        """
        offer = self.find(kind, key, distribution)
        return self._local[kind, key] if offer is None else (load(offer), offer.source)
