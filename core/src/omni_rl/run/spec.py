"""Convert a resolved run to data for another process, and back."""

from __future__ import annotations

from omni_rl.config.chosen import Chosen
from omni_rl.config.resolve import Resolved, resolve
from omni_rl.contracts.spec import LocalFile, Part, RunSpec
from omni_rl.errors import PluginError
from omni_rl.plugins.contract import LAYER_OF_KIND
from omni_rl.plugins.runspec import CORE_HOOKS, check_versions, read_file, resolve_part

_RESOLVED_HERE: dict[str, Resolved] = {}
"""Runs that this process resolved, by their specification. They know the file and line of every key, for errors."""


def spec_of(resolved: Resolved) -> RunSpec:
    """The specification of a run: its plugins with hooks, its local files, and its configuration."""
    parts = tuple(
        part_of(resolved, chosen)
        for chosen in resolved.chosen()
        if chosen.kind in LAYER_OF_KIND and LAYER_OF_KIND[chosen.kind] != "observer"  # observers run in the driver only
    )
    files = tuple(local_files(resolved))
    return RunSpec(core=CORE_HOOKS, parts=parts, files=files, config=resolved.config.model_dump(mode="json"))


def part_of(resolved: Resolved, chosen: Chosen) -> Part:
    """The description of one plugin of the run, with its options."""
    return resolve_part(
        resolved.registry,
        chosen.kind,
        chosen.key,
        distribution=chosen.distribution,
        options=chosen.options.model_dump(mode="json", by_alias=True) if chosen.options else None,
    )


def local_files(resolved: Resolved) -> list[LocalFile]:
    """The run's local plugin files, with their content."""
    return [read_file(str(module.__file__)) for module in resolved.local]


def remember(resolved: Resolved) -> RunSpec:
    """The specification of a run; :func:`resolved_of` then returns this same run in this process."""
    spec = spec_of(resolved)
    _RESOLVED_HERE[spec.to_json()] = resolved
    return spec


def resolved_of(spec: RunSpec) -> Resolved:
    """The run of a specification, in any process.

    Raises:
        PluginError: another version of omni-rl or of a plugin is installed here, or a local file has changed.
        UserError: as ``resolve``.
    """
    known = _RESOLVED_HERE.pop(spec.to_json(), None)
    if known is not None:
        return known
    check_versions(spec)
    for file in spec.files:
        if read_file(file.path).sha256 != file.sha256:
            raise PluginError(
                f"The local plugin {file.path} is not the file that the run was started with.",
                "Start the run again from its configuration.",
            )
    return resolve(spec.config)
