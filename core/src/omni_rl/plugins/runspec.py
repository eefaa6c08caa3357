"""Describes a run's plugins as JSON (names, versions, options and text), so that another process can rebuild them.

No code is pickled: every process imports its installed packages, and local files are sent as text.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from omni_rl._version import __version__
from omni_rl.errors import PluginError
from omni_rl.plugins.contract import LAYER_OF_KIND, Layer
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.local import Registry, load_source, read_source
from omni_rl.plugins.manager import Manager, build_manager

if TYPE_CHECKING:
    from omni_rl.config.resolved import Resolved


CORE_HOOKS = ("omni_rl.run.core_hooks",)
"""Core's own hook modules."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class LocalFile(_Record):
    """A local plugin with its content; ``sha256`` is the hex digest of the content's UTF-8 bytes."""

    path: str
    content: str
    sha256: str

    @classmethod
    def read(cls, path: str | Path) -> LocalFile:
        """The file as it is now; PluginError when it cannot be read."""
        content = read_source(path)
        return cls(path=str(Path(path).resolve()), content=content, sha256=_digest(content))

    def load(self) -> ModuleType:
        """Import the content in this process; PluginError when its hash is not ``sha256`` or the import fails."""
        if _digest(self.content) != self.sha256:
            raise PluginError(
                f"The run's copy of {self.path} does not have the recorded hash {self.sha256[:12]}.",
                "The record was changed or damaged; start the run again from its configuration.",
            )
        return load_source(self.content, self.path)


class Part(_Record):
    """One key that the run uses.

    Attributes:
        kind: a key of ``omni_rl.plugins.discovery.KINDS``.
        distribution: the distribution that offers it; None when a local file declares it.
        version: of that distribution.
        options: the plugin's own options, which its ``Config`` accepts.
    """

    kind: str
    key: str
    distribution: str | None = None
    version: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def resolve(
        cls,
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
        return cls(
            kind=kind,
            key=key,
            distribution=offer.distribution if offer else None,
            version=offer.version if offer else None,
            options=dict(options or {}),
        )

    def load(self, registry: Registry) -> tuple[Any, str]:
        """The object and its source; PluginError when this process has another version than the run."""
        if self.distribution is not None:
            _check_version(self.distribution, self.version)
        return registry.get(self.kind, self.key, self.distribution)

    def layer(self, registry: Registry) -> Layer:
        """The layer of a plugin with hooks; a class is instantiated with ``options``."""
        plugin, source = self.load(registry)
        return Layer(LAYER_OF_KIND[self.kind], build(plugin, self.options), source)


class RunSpec(_Record):
    """A run's plugins and configuration.

    Attributes:
        omni_rl: version of omni-rl.
        core: importable names of core's own hook modules.
        parts: every key that the run uses, of any kind.
        files: local plugins.
        config: the resolved configuration.
    """

    omni_rl: str = __version__
    core: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    files: tuple[LocalFile, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, resolved: Resolved) -> RunSpec:
        """The spec of a configured run: its plugins with hooks, its local files, and its configuration."""
        carriers = [chosen for chosen in resolved.chosen() if chosen.kind in LAYER_OF_KIND]
        parts = tuple(
            Part.resolve(
                resolved.registry,
                chosen.kind,
                chosen.key,
                distribution=chosen.distribution,
                options=chosen.options.model_dump(mode="json", by_alias=True) if chosen.options else None,
            )
            for chosen in carriers
            if LAYER_OF_KIND[chosen.kind] != "observer"  # observers run only in the driver
        )
        files = tuple(LocalFile.read(str(module.__file__)) for module in resolved.local)
        return cls(core=CORE_HOOKS, parts=parts, files=files, config=resolved.config.model_dump(mode="json"))

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """The inverse of :meth:`to_json`; pydantic's ValidationError when ``text`` is not one."""
        return cls.model_validate_json(text)

    def registry(self) -> Registry:
        """The registry of this process, with the run's local files first."""
        return Registry([file.load() for file in self.files])

    def layers(self) -> list[Layer]:
        """The run's layers, built anew in this process.

        Raises:
            PluginError: another version of omni-rl or of a plugin is installed here, a local file's hash differs, or a
                plugin cannot be loaded.
        """
        if self.omni_rl != __version__:
            raise _other_version(CORE, self.omni_rl, __version__)
        registry = self.registry()
        return [
            *(Layer("core", importlib.import_module(name), f"{CORE} {self.omni_rl}") for name in self.core),
            *(part.layer(registry) for part in self.parts if part.kind in LAYER_OF_KIND),
            *(Layer("local", file.load(), file.path) for file in self.files),
        ]

    def rebuild(self) -> Manager:
        """The run's manager, built anew in this process; raises as :meth:`layers`."""
        return build_manager(self.layers())


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
