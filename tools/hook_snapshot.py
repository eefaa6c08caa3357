"""Write the snapshot of every hook's signature that the contract test compares.

    python tools/hook_snapshot.py

Refuses to record a changed contract under an unchanged version: a new hook or argument needs a new CONTRACT_MINOR, any
other change a new CONTRACT_MAJOR (``omni_rl.hookspecs``).
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from omni_rl import hookspecs
from omni_rl.plugins.contract import SPECS

SNAPSHOT = Path(__file__).resolve().parents[1] / "core/tests/plugins/hook_signatures.json"

Snapshot = dict[str, Any]


def current() -> Snapshot:
    """The contract as it is: its version, and per hook its arguments, what it returns, and whether one answer wins."""
    hooks = {}
    for name, spec in SPECS.items():
        signature = inspect.signature(spec.function)
        hooks[name] = {
            "arguments": {each.name: each.annotation for each in signature.parameters.values()},
            "returns": signature.return_annotation,
            "firstresult": spec.firstresult,
        }
    return {"contract": [hookspecs.CONTRACT_MAJOR, hookspecs.CONTRACT_MINOR], "hooks": hooks}


def needed_version(old: Snapshot, new: Snapshot) -> list[int]:
    """The lowest contract version [major, minor] that ``new`` may carry, given that ``old`` was published."""
    major, minor = old["contract"]
    if new["hooks"] == old["hooks"]:
        return [major, minor]
    return [major, minor + 1] if _only_adds(old["hooks"], new["hooks"]) else [major + 1, 0]


def _only_adds(old: Snapshot, new: Snapshot) -> bool:
    return all(name in new and _extends(hook, new[name]) for name, hook in old.items())


def _extends(old: Snapshot, new: Snapshot) -> bool:
    same = all(old[part] == new[part] for part in ("returns", "firstresult"))
    return same and old["arguments"].items() <= new["arguments"].items()


def main() -> int:
    """Write the snapshot, unless the version does not follow the change."""
    new = current()
    if SNAPSHOT.exists():
        needed = needed_version(json.loads(SNAPSHOT.read_text(encoding="utf-8")), new)
        if new["contract"] < needed:
            print(f"The hooks changed: set CONTRACT_MAJOR = {needed[0]}, CONTRACT_MINOR = {needed[1]} in hookspecs.py.")
            return 1
    SNAPSHOT.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
