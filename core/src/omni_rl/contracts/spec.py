"""Describes a run as JSON (names, versions, options and text), so that another process can rebuild it.

No code is pickled: every process imports its installed packages, and local files are sent as text.
``omni_rl.plugins.runspec`` rebuilds the plugins, ``omni_rl.run.spec`` the whole run.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from omni_rl._version import __version__


class Record(BaseModel):
    """Base class: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class LocalFile(Record):
    """A local plugin with its content; ``sha256`` is the hex digest of the content's UTF-8 bytes."""

    path: str
    content: str
    sha256: str


class Part(Record):
    """One plugin that the run uses.

    Attributes:
        kind: its entry-point group without ``omni_rl.``.
        key: its entry-point name.
        distribution: the pip package that contains it; None for a local file.
        version: the version of that package.
        options: the plugin's own options, validated by its ``Config``.
    """

    kind: str
    key: str
    distribution: str | None = None
    version: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class RunSpec(Record):
    """A run's plugins and configuration.

    Attributes:
        omni_rl: version of omni-rl.
        core: importable names of core's own hook modules.
        parts: every plugin that implements hooks.
        files: local plugins.
        config: the resolved configuration.
    """

    omni_rl: str = __version__
    core: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    files: tuple[LocalFile, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """The inverse of :meth:`to_json`; raises pydantic's ValidationError if ``text`` is not a RunSpec."""
        return cls.model_validate_json(text)
