"""Where a run runs: the launcher ``local``, and what other launchers need to run an entry in another process.

See ``omni_rl.contracts.interfaces.Launcher``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from omni_rl import errors
from omni_rl.contracts.spec import RunSpec
from omni_rl.errors import RunError, UserError


def local(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
    """Run in this process."""
    return call(spec, entry, arguments)


def call(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
    """``package.module:function`` as ``function(spec, **arguments)``."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)(spec, **arguments)


def pack(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> str:
    """A call as one line of JSON, for :func:`run_entry` in another process."""
    return json.dumps({"spec": spec.to_json(), "entry": entry, "arguments": dict(arguments)})


def run_entry(packed: str) -> str:
    """Call what :func:`pack` packed; the answer as JSON, for :func:`unpack`. A run's errors are part of the answer."""
    asked = json.loads(packed)
    try:
        answer = call(RunSpec.from_json(asked["spec"]), asked["entry"], asked["arguments"])
    except (UserError, RunError) as error:
        what, hint = getattr(error, "what", str(error)), getattr(error, "hint", None)
        return json.dumps({"error": {"kind": type(error).__name__, "what": what, "hint": hint}})
    return json.dumps({"answer": answer.to_json()})


def unpack(answer: str) -> Any:
    """What the entry answered, as JSON data; raises the error that it raised."""
    data = json.loads(answer)
    if "error" not in data:
        return data["answer"]
    error = data["error"]
    kind = getattr(errors, error["kind"], RunError)
    raise kind(error["what"], error["hint"]) if issubclass(kind, UserError) else kind(error["what"])
