"""``omni-rl new KIND NAME`` creates a plugin that passes its contract suite without changes.

The template is in the wheel as ``omni_rl_testing/_template``; in a checkout this is a link to ``plugin-template``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omni_rl.errors import PluginError, UserError, did_you_mean
from omni_rl.plugins.discovery import offers

TEMPLATE = Path(__file__).parent / "_template"
PREFIX = "omni-rl-"


def kinds() -> list[str]:
    """The kinds of plugins that have a template."""
    return list(json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["kind"])


def new_plugin(kind: str, name: str, output: Path) -> Path:
    """Write the package ``omni-rl-NAME`` into ``output`` and return its folder.

    Args:
        kind: one of :func:`kinds`.
        name: the plugin's name without prefix: lower-case words of letters and digits, joined by ``-`` or ``_``.
        output: an existing folder.

    Raises:
        UserError: the kind or the name is not allowed, the package exists already, or cookiecutter is not installed.
    """
    _check_kind(kind)
    _check_name(kind, name)
    folder = output / (PREFIX + name.replace("_", "-"))
    if not output.is_dir():
        raise UserError(f"{output} is not a folder", f"mkdir -p {output}")
    if folder.exists():
        raise UserError(f"{folder} exists already", "choose another name, or delete the folder")
    return Path(_bake({"kind": kind, "name": name}, output))


def _check_kind(kind: str) -> None:
    known = kinds()
    if kind not in known:
        raise UserError(f"there is no template for a {kind!r} plugin.{did_you_mean(kind, known)}", _usage("NAME"))


def _check_name(kind: str, name: str) -> None:
    if re.match(r"omni[-_]?rl($|[-_])", name):
        bare = re.sub(r"^omni[-_]?rl[-_]?", "", name) or "NAME"
        raise UserError(
            f"the name {name!r} repeats the prefix {PREFIX}, which is added to it", f"omni-rl new {kind} {bare}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise UserError(
            f"{name!r} cannot be a plugin's name: use lower-case words of letters and digits, joined by - or _",
            f"omni-rl new {kind} {_suggestion(kind, name)}",
        )
    key = name.replace("-", "_")
    taken = [offer.distribution for offer in offers(f"{kind}s") if offer.key == key]
    if taken:
        raise PluginError(f"{kind} {key!r} is already offered by {taken[0]}", f"omni-rl new {kind} my-{name}")


def _suggestion(kind: str, name: str) -> str:
    """A usable name near to ``name``: ``Lumina2Pipeline`` -> ``lumina2`` for a model."""
    bare = name.removesuffix("Pipeline") if kind == "model" else name
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", bare).lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-").lstrip("-0123456789") or "my-plugin"


def _usage(name: str) -> str:
    return f"omni-rl new {'|'.join(kinds())} {name}"


def _bake(answers: dict[str, Any], output: Path) -> str:
    """Render the template. Not ``cookiecutter.main``, which leaves a replay file in the user's home."""
    try:
        from cookiecutter.generate import generate_context, generate_files
        from cookiecutter.prompt import prompt_for_config
    except ImportError as error:
        raise UserError(
            "`omni-rl new` needs cookiecutter, which is not installed", "pip install 'omni-rl[new]'"
        ) from error
    context = generate_context(str(TEMPLATE / "cookiecutter.json"), extra_context=answers)
    context["cookiecutter"] = prompt_for_config(context, no_input=True)
    return str(generate_files(str(TEMPLATE), context, str(output)))
