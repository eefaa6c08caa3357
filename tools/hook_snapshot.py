"""Write the snapshot of every hook's signature that the contract test compares.

    python tools/hook_snapshot.py

Refuses to record a changed contract under an unchanged version: a new hook or argument needs a new CONTRACT_MINOR, any
other change a new CONTRACT_MAJOR (``omni_rl.contracts.hooks``). Refuses a changed hook whose docstring does not say so.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from omni_rl.contracts import hooks as contract
from omni_rl.plugins.contract import SPECS

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "core/tests/plugins/hook_signatures.json"

Snapshot = dict[str, Any]


def current() -> Snapshot:
    """The contract as it is: its version, and per hook its arguments, what it returns, and whether one answer wins.

    The file says of each hook besides in which version its signature became what it is: ``changed``.
    """
    hooks = {}
    for name, spec in SPECS.items():
        signature = inspect.signature(spec.function)
        hooks[name] = {
            "arguments": {each.name: each.annotation for each in signature.parameters.values()},
            "returns": signature.return_annotation,
            "firstresult": spec.firstresult,
        }
    return {"contract": [contract.CONTRACT_MAJOR, contract.CONTRACT_MINOR], "hooks": hooks}


def without_history(recorded: Snapshot) -> Snapshot:
    """What of a recorded snapshot is compared with :func:`current`."""
    hooks = {name: {part: hook[part] for part in hook if part != "changed"} for name, hook in recorded["hooks"].items()}
    return {**recorded, "hooks": hooks}


def needed_version(old: Snapshot, new: Snapshot) -> list[int]:
    """The lowest contract version [major, minor] that ``new`` may carry, given that ``old`` was published."""
    major, minor = old["contract"]
    hooks = without_history(old)["hooks"]
    if new["hooks"] == hooks:
        return [major, minor]
    return [major, minor + 1] if _only_adds(hooks, new["hooks"]) else [major + 1, 0]


def with_history(old: Snapshot, new: Snapshot) -> Snapshot:
    """``new``, each hook with the version in which its signature became what it is."""
    before, version = without_history(old)["hooks"], ".".join(map(str, new["contract"]))
    kept = {name: old["hooks"][name]["changed"] for name, hook in new["hooks"].items() if before.get(name) == hook}
    hooks = {name: {**hook, "changed": kept.get(name, version)} for name, hook in new["hooks"].items()}
    return {**new, "hooks": hooks}


def undocumented(recorded: Snapshot) -> list[str]:
    """Hooks whose docstring does not say ``since <version>`` of the version that gave them their signature."""
    return [name for name, hook in recorded["hooks"].items() if not _says_since(name, hook["changed"])]


def _says_since(hook: str, version: str) -> bool:
    text = " ".join((SPECS[hook].function.__doc__ or "").split())
    return re.search(rf"since {re.escape(version)}(?!\d)", text, re.IGNORECASE) is not None


def missing_from(page: str, hooks: Snapshot) -> list[str]:
    """The signatures, ``name(argument: type, ...) -> type``, that a page of the documentation does not show.

    Line breaks, quotes, escapes and a comma after the last argument do not matter.
    """
    shown = _bare(page)
    signatures = [_signature(name, hook) for name, hook in hooks.items()]
    return [each for each in signatures if not re.search(rf"(?<!\w){re.escape(_bare(each))}(?![\w|[])", shown)]


def _signature(name: str, hook: Snapshot) -> str:
    arguments = ", ".join(f"{argument}: {kind}" for argument, kind in hook["arguments"].items())
    return f"{name}({arguments}) -> {hook['returns']}"


def _bare(text: str) -> str:
    plain = re.sub(r"""[\\'"]+""", "", text)
    return re.sub(r"\s*([(),:|>\[\]-])\s*", r"\1", plain).replace(",)", ")")


def _only_adds(old: Snapshot, new: Snapshot) -> bool:
    return all(name in new and _extends(hook, new[name]) for name, hook in old.items())


def _extends(old: Snapshot, new: Snapshot) -> bool:
    same = all(old[part] == new[part] for part in ("returns", "firstresult"))
    return same and old["arguments"].items() <= new["arguments"].items()


def main() -> int:
    """Write the snapshot, unless version or docstrings do not follow the change."""
    new = current()
    old = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    needed = needed_version(old, new)
    if new["contract"] < needed:
        print(
            f"The hooks changed: set CONTRACT_MAJOR = {needed[0]}, CONTRACT_MINOR = {needed[1]} in contracts/hooks.py."
        )
        return 1
    recorded = with_history(old, new)
    if silent := undocumented(recorded):
        wanted = ", ".join(f"{name} (since {recorded['hooks'][name]['changed']})" for name in silent)
        print(f"Say in the docstring what changed and since when, and generate the docs anew: {wanted}.")
        return 1
    SNAPSHOT.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
