"""The launcher ``local``, and functions with which other launchers call a function in another process.

See ``omni_rl.contracts.interfaces.Launcher``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from omni_rl.contracts.spec import RunSpec
from omni_rl.errors import RunError, UserError
from omni_rl.run import error_data


def local(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
    """Run in this process."""
    return call(spec, entry, arguments)


def call(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
    """Import ``entry`` (``package.module:function``) and return ``function(spec, **arguments)``."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)(spec, **arguments)


def pack(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> str:
    """A call as one line of JSON, the argument of :func:`run_entry` in another process."""
    return json.dumps({"spec": spec.to_json(), "entry": entry, "arguments": dict(arguments)})


def run_entry(packed: str) -> str:
    """Make the call that :func:`pack` packed; returns JSON for :func:`unpack`: its result, UserError or RunError."""
    request = json.loads(packed)
    try:
        answer = call(RunSpec.from_json(request["spec"]), request["entry"], request["arguments"])
    except (UserError, RunError) as error:
        return json.dumps({"error": error_data.to_json(error)})
    return json.dumps({"answer": answer.to_json()})


def unpack(answer: str) -> Any:
    """The result of the call as JSON data; raises the error if the call raised one."""
    data = json.loads(answer)
    if "error" not in data:
        return data["answer"]
    raise error_data.from_json(data["error"])
