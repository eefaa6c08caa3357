"""Checks a pipeline's folder before anything of it is loaded.

``model_index.json`` names a library and a class for every component, and diffusers imports what it names. A weight
index names files. Neither may lead to code of the folder, to other formats than safetensors, or out of the folder.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import diffusers
import diffusers.pipelines
import transformers

from omni_rl.contracts.call import INDEX
from omni_rl.contracts.input_files import is_file, is_folder, parse_json, read_regular
from omni_rl.contracts.model import DENOISER_PREFIXES
from omni_rl.errors import ModelError
from omni_rl.model.safetensors_files import check_header

CONFIGURATION = 1024**2
"""Largest ``model_index.json`` or ``config.json``, in bytes."""

WEIGHT_INDEX = 64 * 1024**2
"""Largest list of the weights in shards, in bytes."""

LAYERS = 10_000
"""Most layers of a module. More would take hours to build."""

_AGAIN = "download the model again"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf")


def check_folder(folder: Path) -> None:
    """Check the index, and all components whose files are here.

    Raises:
        ModelError: the index names what is no class of diffusers or transformers; weights are not in safetensors,
            incomplete, quantised or of a variant; a file is no regular one, or lies outside the folder.
    """
    index = _object(folder / INDEX, CONFIGURATION)
    if not isinstance(index.get("_class_name"), str):
        raise _own_code(folder / INDEX, "_class_name", index.get("_class_name"))
    components = {name: value for name, value in index.items() if _is_component(value)}
    present = any(is_folder(folder / name) for name in components)  # a hub's snapshot may hold the index alone
    for name, value in components.items():
        if list(value) == [None, None]:
            _check_left_out(folder, index["_class_name"], name)
        else:
            _check_named(folder, name, value)
            if present:
                _check_component(folder, name)


def _is_component(value: Any) -> bool:
    """Whether a value of the index names a class; a list of numbers is an argument of the pipeline."""
    return isinstance(value, list) and bool(value) and all(part is None or isinstance(part, str) for part in value)


def _own_code(file: Path, name: str, value: Any) -> ModelError:
    what = f"{file}: {name} is {repr(value)[:80]}, not the name of a class of diffusers"
    return ModelError(what, "code of a model folder is not run; use a pipeline that diffusers has itself")


def _check_left_out(folder: Path, architecture: str, name: str) -> None:
    pipeline = getattr(diffusers, architecture, None)
    if name not in getattr(pipeline, "_optional_components", ()):
        what = f"{folder / INDEX}: the component {name} is left out, and {architecture} needs it"
        raise ModelError(what, f"save the pipeline with its {name}, or copy the component from the original model")


def _check_named(folder: Path, name: str, value: Any) -> None:
    """The value is ``[library, class]``: of diffusers, transformers, or a module that a plugin has imported."""
    file = folder / INDEX
    if len(value) != 2 or not all(isinstance(part, str) and part.isidentifier() for part in value):
        raise _own_code(file, name, value)
    if not name.isidentifier():
        raise ModelError(f"{file}: a component is named {name[:80]!r}, which is no name of a folder", _AGAIN)
    library, cls = value
    own = library in diffusers.pipelines._import_structure
    known: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}
    home = known.get(library) or (getattr(diffusers.pipelines, library, None) if own else _imported(folder, library))
    if home is None:
        raise _own_code(file, name, value)
    found = getattr(home, cls, None) or (getattr(diffusers, cls, None) if own else None)
    if found is None and library == "transformers":  # diffusers knows where some classes are that it does not export
        return
    if not (isinstance(found, type) and hasattr(found, "from_pretrained")):
        if not own and library not in known:
            raise _own_code(file, name, value)
        what = f"{file}: {name} is {cls} of {library}, and the installed {library.partition('.')[0]} has no such class"
        raise ModelError(what, "upgrade diffusers and transformers, or check the name")
    if cls.startswith("Auto"):
        _refuse_auto_map(folder / name)


def _imported(folder: Path, library: str) -> ModuleType | None:
    """A module that a plugin of this run has imported from elsewhere. Nothing is imported because an index names it."""
    module = sys.modules.get(library)
    file = getattr(module, "__file__", None)
    return None if file is None or Path(file).resolve().is_relative_to(folder.resolve()) else module


def _refuse_auto_map(component: Path) -> None:
    for file in sorted(component.glob("*.json")) if is_folder(component) else []:
        if "config" in file.name and "auto_map" in _object(file, CONFIGURATION):
            raise _own_code(file, "auto_map", "code beside the weights")


def _check_component(folder: Path, name: str) -> None:
    component = folder / name
    if not is_folder(component):
        raise ModelError(f"{folder} has no folder {name}, which its {INDEX} names", f"{_AGAIN}: it is incomplete")
    files = sorted(component.iterdir())
    for file in files:
        _check_file(file)
    config = component / "config.json"
    settings = _object(config, CONFIGURATION) if is_file(config) else {}
    _check_settings(config, name, settings)
    weights = [file.name for file in files if file.suffix in _WEIGHTS]
    if weights:
        _check_weights(component, weights)


def _check_file(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        what = f"{file} cannot be read: {'its link leads nowhere' if file.is_symlink() else error.strerror}"
        raise ModelError(what, f"{_AGAIN}: it is incomplete") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ModelError(f"{file} is not a regular file", "a model folder holds files and folders only")
    if file.name.endswith((".index.json", "config.json")):
        _object(file, WEIGHT_INDEX if file.name.endswith(".index.json") else CONFIGURATION)


def _check_settings(file: Path, name: str, settings: Mapping[str, Any]) -> None:
    if name.startswith(DENOISER_PREFIXES) and settings.get("quantization_config") is not None:
        quantised = settings["quantization_config"]
        method = str(quantised.get("quant_method", "unknown"))[:40] if isinstance(quantised, Mapping) else "unknown"
        what = f"{file.parent}: the weights are quantised ({method}), and quantised denoisers cannot be trained"
        raise ModelError(what, "give the folder of the original weights, and set precision: bf16 to save memory")
    for key, value in settings.items():
        counts = re.fullmatch(r"(num|n)_.*(layers?|blocks)|num_layers", key)
        if counts and isinstance(value, int) and value > LAYERS:
            raise ModelError(f"{file}: {key} is {value}, more than {LAYERS}", "check the file")


def _check_weights(component: Path, names: list[str]) -> None:
    indices = [file for file in sorted(component.glob("*.index.json")) if ".safetensors" in file.name]
    plain = [name for name in names if name.endswith(".safetensors") and not _variant(name)]
    variants = sorted({_variant(name) or "" for name in names if name.endswith(".safetensors")} - {""})
    usable = [file for file in indices if not _variant(file.name.removesuffix(".index.json"))]
    if not plain and not usable and variants:
        hint = f"DiffusionPipeline.from_pretrained(folder, variant={variants[0]!r}).save_pretrained(other_folder)"
        what = f"{component} has weights of the variant {variants[0]} only, which are not loaded"
        raise ModelError(what, f"save the pipeline without the variant: {hint}")
    if not plain and not usable:
        what = f"{component} has no weights in safetensors, only {', '.join(names)[:100]}"
        raise ModelError(what, "save the pipeline again: pipe.save_pretrained(folder, safe_serialization=True)")
    for index in indices:
        list(shards(index))
    for name in names:
        if name.endswith(".safetensors"):
            check_header(component / name)


def _variant(name: str) -> str | None:
    """``fp16`` of ``model.fp16.safetensors`` and ``model.fp16-00001-of-00002.safetensors``."""
    found = re.fullmatch(r"[^.]+\.([A-Za-z][\w]*)(-\d+-of-\d+)?\.safetensors", name)
    return found[1] if found else None


def shards(index: Path) -> Iterator[Path]:
    """The files that an index of shards names, beside it.

    Raises:
        ModelError: the index names none, or a file that is missing, is no safetensors file or lies outside.
    """
    named = _object(index, WEIGHT_INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(shard, str) for shard in named.values()):
        raise ModelError(f"{index} has no weight_map of file names", _AGAIN)
    for shard in sorted(set(named.values())):
        _check_shard(index, shard)
        yield index.parent / shard


def _check_shard(index: Path, shard: str) -> None:
    path = PurePosixPath(shard)
    if not shard.endswith(".safetensors"):
        raise ModelError(f"{index} names {shard[:80]!r}: weights are read from safetensors only", _AGAIN)
    if path.is_absolute() or ".." in path.parts or "\\" in shard or "\0" in shard:
        raise ModelError(f"{index} names {shard[:80]!r}, which is outside the folder", "do not use this model")
    if not is_file(index.parent / shard):
        raise ModelError(f"{index} names {shard[:80]!r}, which is not there", f"{_AGAIN}: it is incomplete")
    check_header(index.parent / shard)


def _object(file: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = parse_json(read_regular(file, limit, ModelError).decode("utf-8-sig"))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file} is not JSON: {error}", _AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds no JSON object", _AGAIN)
    return value
