"""Where the files that a configuration names are: checkpoints, pipeline folders, prompts, local plugins.

A relative path is relative to the configuration's folder and, if nothing is there, to the working directory; one that
an override gives is looked for the other way round.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rl.contracts.call import INDEX
from omni_rl.errors import DataError, ModelError, PluginError, UserError, did_you_mean, nearest
from omni_rl.plugins.local import Registry

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Files:
    """Finds what a configuration names.

    Attributes:
        folders: where relative paths are looked for, in this order.
        registry: knows the shipped checkpoints.
    """

    folders: Sequence[Path]
    registry: Registry

    def find(self, name: str | Path) -> Path | None:
        """The absolute path of an existing file or folder."""
        candidates = (folder / Path(name).expanduser() for folder in self.folders)
        return next((path.resolve() for path in candidates if path.exists()), None)

    def absolute(self, name: str | Path) -> Path:
        """As ``find``; where nothing exists, the path at which it was looked for first."""
        return self.find(name) or (self.folders[0] / Path(name).expanduser()).absolute()

    def checkpoint(self, name: str) -> Path | None:
        """The folder of a shipped checkpoint; None when no plugin ships one of this name.

        A plugin may ship a family, a function of the name behind the slash: ``family/member``.

        Raises:
            PluginError: the plugin does not produce the folder.
        """
        key, slash, member = name.partition("/")
        if key not in self.registry.keys("checkpoints"):
            return None
        make, source = self.registry.get("checkpoints", key)
        family = _is_family(make)
        if slash and not family:
            return None
        try:
            folder = Path(make(member) if family else make())
        except UserError:
            raise
        except Exception as error:
            raise PluginError(f"{source} fails to provide its checkpoint '{name}': {error!r}") from error
        if not folder.is_dir():
            raise PluginError(f"{source} says its checkpoint '{name}' is at {folder}, where there is no folder")
        return folder.resolve()

    def of_a_family(self, member: str) -> Path | None:
        """The folder of a shipped checkpoint of this name in some family."""
        for key in self.registry.keys("checkpoints"):
            with contextlib.suppress(UserError):
                if _is_family(self.registry.get("checkpoints", key)[0]):
                    return self.checkpoint(f"{key}/{member}")
        return None

    def model(self, name: str, hub: bool) -> Path:
        """The folder that holds the pipeline's ``model_index.json``.

        Of a hub id, the folder of one snapshot, which need not hold more than that file; its name is the commit.

        Raises:
            ModelError: nothing is there, or it is not a pipeline.
        """
        folder = self.checkpoint(name) or self.find(name)
        if folder is None and hub and _HUB_ID.fullmatch(name):
            return _from_hub(name)
        if folder is None:
            raise self._no_model(name)
        if not folder.is_dir():
            raise ModelError(f"model.path '{name}' is a file", "give the folder of a diffusers pipeline")
        if not (folder / INDEX).is_file():
            raise ModelError(f"model.path '{name}' is no diffusers pipeline: it has no {INDEX}", _near(folder))
        return folder

    def _no_model(self, name: str) -> ModelError:
        shipped = self.registry.keys("checkpoints")
        folders = [
            path.name for folder in self.folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()
        ]
        near = did_you_mean(name, [*shipped, *folders])
        lines = [f"installed checkpoints: {', '.join(shipped) or 'none'}"]
        if _HUB_ID.fullmatch(name):
            lines.append("if it is a model hub's id, allow the download with model.hub: true")
        return ModelError(
            f"model.path '{name}' is neither an installed checkpoint nor a folder.{near}", "\n  ".join(lines)
        )

    def data(self, name: str) -> Path:
        """The absolute path of a prompt file.

        Raises:
            DataError: there is no such file.
        """
        first, _, rest = name.partition("/")
        folder = self.checkpoint(first) if rest else None
        found = (folder / rest if (folder / rest).is_file() else None) if folder else self.find(name)
        if found is not None:
            return found
        looked = [folder] if folder else [(f / name).parent for f in self.folders]
        beside = sorted({path.name for place in looked if place.is_dir() for path in place.iterdir() if path.is_file()})
        near = nearest(Path(name).name, beside)
        what = f"there is no prompt file '{name}'" + (f" in the checkpoint '{first}'" if folder else "")
        hint = f"files beside it: {', '.join(beside[:8])}" if beside and not near else None
        raise DataError(what + (f". Did you mean '{near}'?" if near else ""), hint)


def _is_family(make: Callable[..., object]) -> bool:
    return bool(inspect.signature(make).parameters)


def architecture_of(folder: Path) -> str:
    """``_class_name`` of a pipeline folder.

    Raises:
        ModelError: the index is not JSON or names no class.
    """
    index = folder / INDEX
    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index} does not say which pipeline it is ({error!r})", "it needs a _class_name") from error
    if not isinstance(name, str):
        raise ModelError(f"{index} does not say which pipeline it is: _class_name is {name!r}")
    return name


def _near(folder: Path) -> str:
    """Where the pipeline may be instead."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{INDEX}"))
    if inside:
        return f"it holds pipelines, though: {', '.join(inside[:5])}"
    if (folder.parent / INDEX).is_file():
        return f"the folder above it is one: {folder.parent}"
    return "save one with pipeline.save_pretrained(folder), or give the folder that holds it"


def _from_hub(name: str) -> Path:
    """The snapshot folder of a hub id; downloads its index unless HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HFValidationError

    offline = constants.HF_HUB_OFFLINE
    try:
        return Path(hf_hub_download(name, INDEX, local_files_only=offline)).parent
    except (OSError, HFValidationError) as error:  # every error of the hub client but the second is an OSError
        if offline:
            hint = "unset HF_HUB_OFFLINE to download it, or give the folder of a copy"
            raise ModelError(f"model.path '{name}' is not in the hub cache and HF_HUB_OFFLINE is set", hint) from error
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model.path '{name}' cannot be had from the hub: {reason}", "check the id") from error
