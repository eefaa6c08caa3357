"""Strategies of model folders: an index, configurations, weights and tokenizers that are damaged or hostile."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cases import BASE, Case, Verdict, text_of
from config_cases import BOUNDARY, WRONG, leaves
from hypothesis import strategies as st

INDEX = "model/model_index.json"
OUTSIDE = "../../../secret"
"""From the model's folder to a folder that lies outside of the case's, with a component's files; see :func:`secret`."""

CANARY = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\nclass Evil: pass\n"
"""Code of a folder; the audit hook sees when it is executed."""

LIBRARIES = (
    "os", "sys", "subprocess", "builtins", "pickle", "torch", "torch.nn", "numpy", "this", "antigravity", "evil",
    "model.evil", ".evil", "..evil", "../evil", "/tmp/evil", "evil.py", "transformers.models.auto",
    "diffusers.pipelines", "pipeline_evil", "omni_rl", "omni_rl.errors", "json.tool", "pip", "__main__", "", " ",
    "a b", "\u0130", "diffusers_modules.local.evil", "x" * 5000,
)  # fmt: skip
CLASSES = (
    "Evil", "system", "Popen", "Module", "Linear", "load", "eval", "exec", "AutoModel", "AutoTokenizer",
    "UNet2DModel", "__init__", "FlowMatchHeunDiscreteScheduler", "DDIMScheduler", "AutoencoderKL", "CLIPTextModel",
    "T5EncoderModel", "QwenImagePipeline", "DiffusionPipeline", "", "a.b", "Nothing", "x" * 5000,
)  # fmt: skip
PIPELINES = (
    "FluxPipeline", "StableDiffusionPipeline", "DDPMPipeline", "DiffusionPipeline", "AutoPipelineForText2Image",
    "Evil", "__class__", "ConfigMixin", "pipelines", "logging", "qwenimagepipeline", "QwenImageImg2ImgPipeline",
    "QwenImagePipelin", "", " ", "x" * 5000, ["pipeline", "Evil"], ["diffusers", "QwenImagePipeline"], None, 7, {},
    [], "../../evil", "evil.py",
)  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _case(
    what: str, files: Mapping[str, bytes], verdict: Verdict = "either", links: Mapping[str, str] | None = None
) -> Case:
    own = {f"model/{name}.py": CANARY.encode() for name in ("evil", "pipeline", "transformer/evil", "os")}
    return Case(f"a model: {what}", {**own, **files}, links or {}, verdict=verdict, may_fail=verdict == "either")


@st.composite
def indices(draw: st.DrawFn, folder: Path) -> Case:
    """One value of the index is another."""
    index = json.loads((folder / "model_index.json").read_text())
    names = [name for name, value in index.items() if isinstance(value, list)]
    kind = draw(st.sampled_from(["library", "class", "pipeline", "value", "missing", "extra", "null", "renamed"]))
    name, what = draw(st.sampled_from(names)), ""
    if kind in ("library", "class"):
        index[name][kind == "class"] = what = draw(st.sampled_from(LIBRARIES if kind == "library" else CLASSES))
    elif kind == "pipeline":
        index["_class_name"] = what = draw(st.sampled_from(PIPELINES))
    elif kind == "value":
        index[name] = what = draw(st.sampled_from([*WRONG, [None, "x"], ["diffusers"], ["a", "b", "c"], [["a"], "b"]]))
    elif kind == "missing":
        del index[name]
    elif kind == "extra":
        what = draw(
            st.sampled_from(
                ["evil", "../evil", "/etc", "a/b", "", "controlnet", "safety_checker", "config", "__class__"]
            )
        )
        index[what] = [
            draw(st.sampled_from(["evil", "diffusers", "transformers", "os"])),
            draw(st.sampled_from(CLASSES)),
        ]
    elif kind == "null":
        index[name] = [None, None]
    else:
        what = draw(st.sampled_from([OUTSIDE, "scheduler", "vae2", "transformer_2", "x" * 300]))
        index[what] = index.pop(name)
    return _case(f"index, {kind} of {name}: {what!r:.60}", {INDEX: _json(index)})


@st.composite
def settings_of_parts(draw: st.DrawFn, folder: Path) -> Case:
    """One value in a config.json, tokenizer file or scheduler configuration is another."""
    file = draw(st.sampled_from([f for f in sorted(folder.rglob("*.json")) if f.name != "model_index.json"]))
    tree = json.loads(file.read_text())
    path = draw(st.sampled_from(list(leaves(tree))[:400]))
    inner: Any = tree
    for key in path[:-1]:
        inner = inner[key]
    kind = draw(st.sampled_from(["value", "value", "value", "missing", "code"]))
    value = draw(st.one_of(st.sampled_from(BOUNDARY), st.sampled_from(WRONG)))
    if kind == "missing":
        del inner[path[-1]]
    elif kind == "code":
        path, value = ("auto_map",), {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
        tree = {**tree, "auto_map": value, "_class_name": "Evil", "tokenizer_class": "Evil"}
    else:
        inner[path[-1]] = value
    name = file.relative_to(folder).as_posix()
    return _case(f"{name}, {kind} of {'.'.join(map(str, path))}: {value!r:.60}", {f"model/{name}": _json(tree)})


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file_of(header: bytes, rest: bytes, claims: int | None = None) -> bytes:
    """A safetensors file; ``claims``: the length that it gives of its header."""
    return struct.pack("<Q", len(header) if claims is None else claims) + header + rest


@st.composite
def weights(draw: st.DrawFn, folder: Path) -> Case:
    """A weight file that is cut, or whose header or bytes are others."""
    file = draw(st.sampled_from(sorted(folder.rglob("*.safetensors"))))
    data = file.read_bytes()
    header, rest = header_of(data)
    name = draw(st.sampled_from(sorted(n for n in header if n != "__metadata__")))
    kind = draw(
        st.sampled_from(
            ["cut", "claims", "dtype", "shape", "offsets", "renamed", "missing", "extra", "bytes", "nan", "text"]
        )
    )
    place, odd = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from([*BOUNDARY[:31], *WRONG[:12]]))
    claims = None
    if kind == "claims":
        claims = draw(st.sampled_from([0, 1, 2**20, 2**31, 2**62, 2**64 - 1]))
    elif kind == "dtype":
        header[name]["dtype"] = draw(st.sampled_from(["F64", "I64", "BOOL", "F8_E4M3", "X", "", 7, None, "f32"]))
    elif kind == "shape":
        header[name]["shape"] = draw(st.sampled_from([[], [odd], [2**40, 2**40], [0], "x", None, [-1], [1.5]]))
    elif kind == "offsets":
        header[name]["data_offsets"] = draw(
            st.sampled_from([[odd, odd], [0], [], None, [0, 2**70], [8, 4], [0, float("inf")]])
        )
    elif kind == "renamed":
        header[draw(st.sampled_from(["x", "", "../x", "a" * 5000]))] = header.pop(name)
    elif kind == "missing":
        del header[name]
    elif kind == "extra":
        header["x"] = draw(st.sampled_from([odd, {}, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}]))
    new = file_of(_json(header), rest, claims)
    if kind == "cut":
        new = data[:place]
    elif kind == "bytes":
        new = data[:place] + draw(st.binary(min_size=1, max_size=4)) + data[place + 1 :]
    elif kind == "nan":
        new = data[: -(len(rest) // 4 * 4)] + b"\xff\xff\xff\x7f" * (len(rest) // 4)
    elif kind == "text":
        new = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    where = file.relative_to(folder).as_posix()
    return _case(f"{where}, {kind} of {name} at {place}", {f"model/{where}": new})


class _Touch:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def _torch_file() -> bytes:
    stream = io.BytesIO()
    torch.save(_Touch(), stream)
    return stream.getvalue()


TRANSFORMER = "transformer/diffusion_pytorch_model"


def secret(model: Path, folder: Path) -> None:
    """Fill ``folder`` with sound files of a component: a model folder that leads there could be loaded."""
    shutil.copytree(model / "transformer", folder, dirs_exist_ok=True)
    shutil.copy(model / f"{TRANSFORMER}.safetensors", folder / "x.safetensors")


def _sharded(weight_map: Any, folder: Path, alone: bool) -> Case:
    """An index of shards that names any files.

    Args:
        alone: there is no plain file of weights beside it, which diffusers would prefer.
    """
    size = (folder / f"{TRANSFORMER}.safetensors").stat().st_size
    index = _json({"metadata": {"total_size": size}, "weight_map": weight_map})
    what = f"shards {weight_map!r:.60}" + (" and no plain file" if alone else "")
    case = _case(what, {f"model/{TRANSFORMER}.safetensors.index.json": index}, "refused" if alone else "either")
    return replace(case, without=(f"model/{TRANSFORMER}.safetensors",) if alone else ())


def fixed(folder: Path) -> Sequence[Case]:
    """Hostile and unusual folders, each once."""
    return list(_fixed(folder))


def _fixed(folder: Path) -> Iterator[Case]:
    index = json.loads((folder / "model_index.json").read_text())
    data = (folder / f"{TRANSFORMER}.safetensors").read_bytes()
    header, rest = header_of(data)
    yield from _indexes(index)
    yield from _shards(folder, sorted(name for name in header if name != "__metadata__"))
    yield from _files(data)
    yield from _headers(header, rest)
    yield from _settings(folder)


def _indexes(index: dict[str, Any]) -> Iterator[Case]:
    for name, content, verdict in (
        ("a BOM", b"\xef\xbb\xbf" + _json(index), "either"),
        ("empty", b"", "refused"),
        ("cut", _json(index)[:99], "refused"),
        ("a list", b"[]", "refused"),
        ("UTF-16", json.dumps(index).encode("utf-16"), "refused"),
        ("deep", b"[" * 100_000, "refused"),
        ("deep inside", _json(index)[:-1] + b', "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "refused"),
        ("5,000 digits", _json(index)[:-1] + b', "x": ' + b"9" * 5000 + b"}", "refused"),
        ("two megabytes", _json(index) + b" " * 2_000_000, "refused"),
        ("a key twice", b'{"vae": ["os", "system"], ' + _json(index)[1:], "either"),
        ("pretty", json.dumps(index, indent=8).encode(), "trains"),
        ("a comment", b"// mine\n" + _json(index), "refused"),
        ("without version", _json({k: v for k, v in index.items() if k != "_diffusers_version"}), "trains"),
        ("another version", _json({**index, "_diffusers_version": "0.1.0"}), "trains"),
        ("a name or path", _json({**index, "_name_or_path": OUTSIDE}), "trains"),
        ("an argument", _json({**index, "_ignore_files": ["x"]}), "either"),
    ):
        yield _case(f"index: {name}", {INDEX: content}, verdict)  # type: ignore[arg-type]


def _shards(folder: Path, tensors: Sequence[str]) -> Iterator[Case]:
    for shard in (
        "x.bin",
        f"../{OUTSIDE}/x.safetensors",
        "/etc/passwd",
        "a\\b.safetensors",
        "",
        "x.safetensors",
        "..",
        "x\0.safetensors",
        "n" * 5000 + ".safetensors",
    ):
        for alone in (False, True):
            yield _sharded(dict.fromkeys(tensors, shard), folder, alone)
    for odd in (None, [], 7, "x", {"a": 1}, {"a": ["x.safetensors"]}, {}):
        for alone in (False, True):
            yield _sharded(odd, folder, alone)


def _files(data: bytes) -> Iterator[Case]:
    yield _case("a pickle beside the weights", {f"model/{TRANSFORMER}.bin": _torch_file()}, "either")
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.pt", "optimizer.pkl", "training_args.bin"):
        yield _case(f"{name} in the VAE", {f"model/vae/{name}": _torch_file()}, "either")
    pickles = {f"model/{TRANSFORMER}.bin": _torch_file(), f"model/{TRANSFORMER}.safetensors": _torch_file()}
    yield _case("a pickle named safetensors", pickles, "refused")
    yield _case("weights lead nowhere", {}, "refused", {f"model/{TRANSFORMER}.safetensors": "nowhere"})
    yield _case("weights of a device", {}, "refused", {f"model/{TRANSFORMER}.safetensors": "/dev/zero"})
    yield _case(
        "a loop of links", {}, "refused", {f"model/{TRANSFORMER}.safetensors": "diffusion_pytorch_model.safetensors"}
    )
    yield _case("a link to itself", {}, "either", {"model/vae/more": ".."})
    yield _case("a variant beside", {f"model/{TRANSFORMER}.fp16.safetensors": data}, "trains")
    yield _case("a damaged variant beside", {f"model/{TRANSFORMER}.fp16.safetensors": data[:99]}, "either")
    yield _case(
        "read me", {"model/README.md": b"---\n", "model/.gitattributes": b"", "model/vae/.DS_Store": b"\0"}, "trains"
    )
    yield _case("a hub's cache", {"model/.cache/huggingface/x.lock": b""}, "trains")


def _headers(header: dict[str, Any], rest: bytes) -> Iterator[Case]:
    bare = {name: entry for name, entry in header.items() if name != "__metadata__"}
    yield _case("no metadata", {f"model/{TRANSFORMER}.safetensors": file_of(_json(bare), rest)}, "trains")
    padded = _json(header) + b" " * 64
    yield _case("a padded header", {f"model/{TRANSFORMER}.safetensors": file_of(padded, rest)}, "trains")
    for name, head in (
        ("empty", b""),
        ("a list", b"[]"),
        ("deep", b"[" * 50_000),
        ("a text", b'"x"'),
        ("NaN", b'{"x": NaN}'),
        ("infinity", b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'),
        ("5,000 digits", b'{"x": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
        ("not UTF-8", b'{"\xff": 1}'),
    ):
        yield _case(f"header: {name}", {f"model/{TRANSFORMER}.safetensors": file_of(head, b"")}, "refused")


def _settings(folder: Path) -> Iterator[Case]:
    for name in (
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
    ):
        for what, content in (
            ("empty", b""),
            ("a list", b"[]"),
            ("null", b"null"),
            ("deep", b"[" * 100_000),
            ("binary", bytes(256)),
            ("cut", (folder / name).read_bytes()[:-9]),
            ("5,000 digits", b'{"x": ' + b"9" * 5000 + b"}"),
        ):
            yield _case(f"{name}: {what}", {f"model/{name}": content})
    for name in (
        "tokenizer/chat_template.jinja",
        "tokenizer/added_tokens.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
    ):
        yield _case(f"{name} of text", {f"model/{name}": b"{{ ''.__class__.__mro__ }}\n"})


def hub(models: Mapping[str, Path]) -> Sequence[Case]:
    """A path that is no folder, and ids of a hub."""
    del models
    odd = (
        "./nothing",
        "org/model",
        "https://huggingface.co/org/model",
        "prompts.txt",
        "org/model@main",
        "~",
        "model/",
        "model/.",
    )
    return [Case(f"model.path {p}", {"run.yaml": text_of({**BASE, "model": {"path": p}}).encode()}) for p in odd]


def folders(models: Mapping[str, Path]) -> st.SearchStrategy[Case]:
    """One damaged or hostile value or file."""
    folder = models["tiny"]
    return st.one_of(indices(folder), settings_of_parts(folder), settings_of_parts(folder), weights(folder))
