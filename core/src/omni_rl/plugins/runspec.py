"""Rebuilds a run's plugins in another process, from the names, versions, options and text in its ``RunSpec``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from omni_rl._version import __version__
from omni_rl.contracts.spec import LocalFile, Part, RunSpec
from omni_rl.errors import PluginError
from omni_rl.plugins.contract import LAYER_OF_KIND, Layer
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.local import Registry, load_source, read_source
from omni_rl.plugins.manager import Manager, build_manager

CORE_HOOKS = ("omni_rl.run.core_hooks",)
"""Core's own hook modules."""


def read_file(path: str | Path) -> LocalFile:
    """The local plugin as it is now; PluginError when it cannot be read."""
    content = read_source(path)
    return LocalFile(path=str(Path(path).resolve()), content=content, sha256=_digest(content))


def load_file(file: LocalFile) -> ModuleType:
    """Import the content in this process; PluginError when its hash is not ``sha256`` or the import fails."""
    if _digest(file.content) != file.sha256:
        raise PluginError(
            f"The run's copy of {file.path} does not have the recorded hash {file.sha256[:12]}.",
            "The record was changed or damaged; start the run again from its configuration.",
        )
    return load_source(file.content, file.path)


def resolve_part(
    registry: Registry,
    kind: str,
    key: str,
    *,
    distribution: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Part:
    """Record the distribution that offers ``key`` in this process; does not import it.

    Raises:
        PluginError: no distribution offers the key, or several do.
    """
    offer = registry.find(kind, key, distribution)
    return Part(
        kind=kind,
        key=key,
        distribution=offer.distribution if offer else None,
        version=offer.version if offer else None,
        options=dict(options or {}),
    )


def load_part(part: Part, registry: Registry) -> tuple[Any, str]:
    """The object and its source; PluginError when this process has another version than the run."""
    if part.distribution is not None:
        _check_version(part.distribution, part.version)
    return registry.get(part.kind, part.key, part.distribution)


def layer_of(part: Part, registry: Registry) -> Layer:
    """The layer of a plugin with hooks; a class is instantiated with the part's options."""
    plugin, source = load_part(part, registry)
    return Layer(LAYER_OF_KIND[part.kind], build(plugin, part.options), source)


def check_versions(spec: RunSpec) -> None:
    """Raise PluginError unless this process has the versions of omni-rl and of the plugins that the run uses."""
    if spec.omni_rl != __version__:
        raise _other_version(CORE, spec.omni_rl, __version__)
    for part in spec.parts:
        if part.distribution is not None:
            _check_version(part.distribution, part.version)


def layers_of(spec: RunSpec) -> list[Layer]:
    """The run's layers, built anew in this process.

    Raises:
        PluginError: another version of omni-rl or of a plugin is installed here, a local file's hash differs, or a
            plugin cannot be loaded.
    """
    check_versions(spec)
    modules = [(load_file(file), file.path) for file in spec.files]
    registry = Registry([module for module, _ in modules])
    return [
        *(Layer("core", importlib.import_module(name), f"{CORE} {spec.omni_rl}") for name in spec.core),
        *(layer_of(part, registry) for part in spec.parts if part.kind in LAYER_OF_KIND),
        *(Layer("local", module, path) for module, path in modules),
    ]


def rebuild(spec: RunSpec) -> Manager:
    """The run's manager, built anew in this process; raises as :func:`layers_of`."""
    return build_manager(layers_of(spec))


def build(plugin: Any, options: Mapping[str, Any]) -> Any:
    """The object that has the hooks: an instance of a class, built from its ``Config`` if any; other objects as is."""
    if not inspect.isclass(plugin):
        return plugin
    config: Any = getattr(plugin, "Config", None)
    make: Any = plugin
    return make() if config is None else make(config(**options))


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _check_version(distribution: str, version: str | None) -> None:
    try:
        here = metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise PluginError(
            f"The run uses {distribution} {version}, which is not installed in this process's environment.",
            f"pip install '{distribution}=={version}'",
        ) from error
    if here != version:
        raise _other_version(distribution, version, here)


def _other_version(distribution: str, wanted: str | None, here: str) -> PluginError:
    return PluginError(
        f"The run uses {distribution} {wanted}, but this process's environment has {distribution} {here}.",
        f"pip install '{distribution}=={wanted}'",
    )
