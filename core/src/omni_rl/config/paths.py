"""Finds the files that a configuration names: checkpoints, pipeline folders, prompt files, local plugins.

A relative path is relative to the folder of the configuration file. If nothing exists there, it is relative to the
working directory. For a path in an override, the working directory comes first.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rl.contracts.call import INDEX
from omni_rl.contracts.input_files import CONFIGURATION, exists, is_file, is_folder, names_in, parse_json, read_regular
from omni_rl.errors import DataError, ModelError, PluginError, UserError, did_you_mean, nearest
from omni_rl.plugins.local import Registry

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")

_JOIN = "join the files first: cat prompts-*.jsonl > prompts.jsonl"


@dataclass(frozen=True)
class Files:
    """Finds files and folders by the names in a configuration.

    Attributes:
        folders: the folders to search for relative paths, in this order.
        registry: lists the shipped checkpoints.
    """

    folders: Sequence[Path]
    registry: Registry

    def find(self, name: str | Path) -> Path | None:
        """The absolute path of an existing file or folder, or None."""
        candidates = (folder / Path(name).expanduser() for folder in self.folders)
        return next((path.resolve() for path in candidates if exists(path)), None)

    def absolute(self, name: str | Path) -> Path:
        """As ``find``; if nothing exists, the absolute path in the first folder."""
        return self.find(name) or (self.folders[0] / Path(name).expanduser()).absolute()

    def checkpoint(self, name: str) -> Path | None:
        """The folder of a shipped checkpoint; None when no plugin ships one with this name.

        A plugin may ship a family ``family/member``: its function receives the member's name.

        Raises:
            PluginError: the plugin does not produce the folder.
        """
        key, slash, member = name.partition("/")
        if key not in self.registry.keys("checkpoints"):
            return None
        make, source = self.registry.get("checkpoints", key)
        family = is_family(make)
        if slash and not family:
            return None
        try:
            folder = Path(make(member) if family else make())
        except UserError:
            raise
        except Exception as error:
            raise PluginError(f"{source} cannot provide its checkpoint '{name}': {error!r}") from error
        if not is_folder(folder):
            raise PluginError(f"{source} gives {folder} as its checkpoint '{name}', but that folder does not exist")
        return folder.resolve()

    def model(self, name: str, hub: bool) -> Path:
        """The folder that contains the pipeline's ``model_index.json``.

        For a hub id, this is the folder of one snapshot. It may contain only that file, and its name is the commit.

        Raises:
            ModelError: the path does not exist, or is not a pipeline.
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
        folders = [folder for each in self.folders for folder in names_in(each, folders=True)]
        near = did_you_mean(name, [*shipped, *folders])
        lines = [f"installed checkpoints: {', '.join(shipped) or 'none'}"]
        if _HUB_ID.fullmatch(name):
            lines.append("if it is the id of a model on the hub, allow the download with model.hub: true")
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
        file = (folder / rest if is_file(folder / rest) else None) if folder else self.find(name)
        if file is not None:
            return file
        if re.search(r"[*?\[]", name):
            raise DataError(f"data.path '{name[:80]}' is a pattern, and one file is read", _JOIN)
        searched = [folder] if folder else [(f / name).parent for f in self.folders]
        beside = sorted({name for each in searched for name in names_in(each)})
        near = nearest(Path(name).name, beside)
        what = f"there is no prompt file '{name}'" + (f" in the checkpoint '{first}'" if folder else "")
        hint = f"files in that folder: {', '.join(beside[:8])}" if beside and not near else None
        raise DataError(what + (f". Did you mean '{near}'?" if near else ""), hint)


def is_family(make: Callable[..., object]) -> bool:
    """Whether what ships a checkpoint ships a family: it takes the member's name."""
    return bool(inspect.signature(make).parameters)


def architecture_of(folder: Path) -> str:
    """``_class_name`` of a pipeline folder.

    Raises:
        ModelError: the index is not JSON or names no class.
    """
    index = folder / INDEX
    try:
        name = parse_json(read_regular(index, CONFIGURATION, ModelError).decode("utf-8"))["_class_name"]
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{index} does not name a pipeline class ({error!r})", "it needs the key _class_name"
        ) from error
    if not isinstance(name, str):
        what = f"{index} does not name a pipeline class: _class_name is {repr(name)[:80]}"
        hint = "code of a model folder is not run; use a pipeline that diffusers has itself" if name else None
        raise ModelError(what, hint)
    return name


def _near(folder: Path) -> str:
    """A hint: where a pipeline exists near ``folder``."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{INDEX}"))
    if inside:
        return f"but these folders in it are pipelines: {', '.join(inside[:5])}"
    if (folder.parent / INDEX).is_file():
        return f"the parent folder is a pipeline: {folder.parent}"
    return f"save one with pipeline.save_pretrained(folder), or give the folder that contains {INDEX}"


def _from_hub(name: str) -> Path:
    """The snapshot folder of a hub id. Downloads ``model_index.json`` unless HF_HUB_OFFLINE is set."""
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
        raise ModelError(f"model.path '{name}' cannot be downloaded from the hub: {reason}", "check the id") from error
