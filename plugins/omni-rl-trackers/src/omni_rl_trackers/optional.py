"""Packages that only one tracker needs."""

from __future__ import annotations

import importlib
from typing import Any

from omni_rl.errors import PluginError


def optional(module: str, tracker: str, install: str | None = None) -> Any:
    """Import a module that only this tracker needs.

    Args:
        install: the pip requirement; default: the extra of omni-rl with the tracker's name.

    Raises:
        PluginError: the import failed; the error says how to install the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"tracker {tracker!r} needs a package that cannot be imported: {error}"
        raise PluginError(what, f"pip install '{install or f'omni-rl[{tracker}]'}'") from error
