"""Every configuration of this repository, against the published configuration of the model that it names.

Nothing has weights here: folders named as the models on the hub hold their configuration files (fixtures/models), and
modules are built on the meta device.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from omni_rl import train
from omni_rl.config.resolve import Resolved, resolve
from omni_rl.config.yaml_file import parse, read
from omni_rl.contracts.call import effective_call, split_call
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Config
from omni_rl.data.prompts import load
from omni_rl.errors import UserError
from omni_rl.model import outline
from omni_rl.model.loading import from_pipe
from omni_rl.plugins.local import Registry
from omni_rl.plugins.manager import Hooks, Layer, build_manager, overridden
from omni_rl.run import core_hooks
from omni_rl.run.preflight import check_ahead
from omni_rl_tiny import pipelines

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.ci
FIXTURES = ROOT / "tests/fixtures"
RECIPES = sorted((ROOT / "examples/recipes").glob("*.yaml"))
MODELS = sorted(path.parent for path in (FIXTURES / "models").glob("*/*/model_index.json"))


ELSEWHERE = {
    "plugins/omni-rl-vllm-omni/README.md": "its engine is installed in an environment of its own (nox -s vllm_omni)",
    "plugins/omni-rl-veomni/README.md": "its backend is installed in an environment of its own (nox -s veomni)",
    "plugin-template/templates/algorithm/README.md": "of a package that is yet to be generated (nox -s template)",
    "plugin-template/templates/engine/README.md": "of a package that is yet to be generated (nox -s template)",
    "plugin-template/templates/model/README.md": "of a package that is yet to be generated (nox -s template)",
    "plugin-template/templates/reward/README.md": "of a package that is yet to be generated (nox -s template)",
    "plugin-template/templates/tracker/README.md": "of a package that is yet to be generated (nox -s template)",
}
"""Fragments that are not checked here, and why."""


def fragments() -> Iterator[tuple[str, str]]:
    """(file and line, text) of every block of YAML in a Markdown file."""
    for path in sorted(ROOT.rglob("*.md")):
        name = str(path.relative_to(ROOT))
        if name.startswith((".", "docs/")) or name in ELSEWHERE or "_template" in path.parts:  # docs: test_snippets.py
            continue
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(r"```yaml\n(.*?)```", text, re.DOTALL):
            yield f"{name}:{text.count(chr(10), 0, block.start()) + 1}", block[1]


FRAGMENTS = dict(fragments())
FILES = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.yaml"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory where the paths of all configurations lead somewhere."""
    for model in MODELS:
        linked(model, tmp_path / model.relative_to(FIXTURES / "models"))
    (tmp_path / "data").symlink_to(FIXTURES / "prompts")
    full_size = tmp_path / "full-size"  # as benchmarks/full_size.py writes it
    linked(FIXTURES / "models/Qwen/Qwen-Image", full_size)
    for file in (tmp_path / "prompts.txt", full_size / "prompts.txt", tmp_path / "pairs.jsonl"):
        file.write_text("a sign\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def linked(model: Path, place: Path) -> None:
    """A folder with links to the model's files, and an empty folder for every component that has none."""
    place.mkdir(parents=True)
    for part in model.iterdir():
        (place / part.name).symlink_to(part)
    for name, value in json.loads((model / "model_index.json").read_text()).items():
        if isinstance(value, list) and value[0] and not (model / name).exists():
            (place / name).mkdir()


def checked(source: Path | Mapping[str, Any]) -> Resolved:
    """Resolved, and held against what its model's configuration files say."""
    resolved = resolve(source)
    manager = build_manager([Layer("core", core_hooks, "core"), *resolved.layers()])
    hooks = Hooks(manager)
    check_ahead(resolved, hooks, [(resolved.config.data, [])])
    model = without_weights(resolved)
    rollout, validation = resolved.config.rollout.call, resolved.config.validation.call
    for call in (effective_call(rollout), effective_call(rollout, validation)):
        if "prepare_latents" in overridden(manager):  # a model plugin's own idea of sizes
            hooks.prepare_latents(model=model, conditioning={}, call=split_call(call)[1])
        refuse_wrong_call(model, {**call, **dict.fromkeys(resolved.config.data.media, Image.new("RGB", (64, 64)))})
    return resolved


def without_weights(resolved: Resolved) -> LoadedModel:
    """The pipeline with what diffusers itself provides of it; encoders of text are None."""
    index = json.loads((resolved.model_path / "model_index.json").read_text())
    cls = outline.pipeline_class(resolved.architecture, resolved.model_path)
    given = {name: index[name] for name in inspect.signature(cls).parameters if name in index}
    parts = {n: built(resolved.model_path / n, *v) if isinstance(v, list) else v for n, v in given.items()}
    return from_pipe(cls(**parts), path=resolved.model_path, device=torch.device("meta"))


@cache
def built(folder: Path, library: str | None, name: str | None) -> Any:
    """A component of ``model_index.json`` that is diffusers' own, None in place of any other."""
    if library != "diffusers":
        return None
    cls = getattr(diffusers, str(name))
    with torch.device("meta" if issubclass(cls, torch.nn.Module) else "cpu"):
        return cls.from_config(cls.load_config(folder))


def refuse_wrong_call(model: LoadedModel, call: Mapping[str, Any]) -> None:
    """By the pipeline's own check of its inputs, and by what it would silently round."""
    usual = {n: p.default for n, p in inspect.signature(type(model.pipe).__call__).parameters.items()}
    given = {**usual, "prompt": "a sign", **call}
    if hasattr(model.pipe, "check_inputs"):  # Z-Image's checks nothing
        wanted = inspect.signature(model.pipe.check_inputs).parameters
        model.pipe.check_inputs(**{name: given.get(name) for name in wanted})
    if "num_frames" in call:
        assert (call["num_frames"] - 1) % scale(model, *TEMPORAL) == 0
    pixels = 2 * scale(model, *SPATIAL)
    assert call["height"] % pixels == 0
    assert call["width"] % pixels == 0


SPATIAL = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")


def scale(model: LoadedModel, *names: str) -> int:
    """How many times smaller latents are, by whichever of its names the pipeline has."""
    return next(getattr(model.pipe, name) for name in names if hasattr(model.pipe, name))


def changed(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, or remove it."""
    *sections, last = key.split(".")
    for section in sections:
        data = data[section]
    if value is None:
        data.pop(last)
    else:
        data[last] = value


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_configuration_fits_its_model(workplace: Path, file: Path) -> None:
    checked(file)


@pytest.mark.parametrize("where", FRAGMENTS)
def test_a_fragment_in_the_documentation_fits_its_model(workplace: Path, where: str) -> None:
    """Completed from the quickstart where it is a part of a configuration."""
    shown, _ = parse(FRAGMENTS[where], where)
    checked({**read(ROOT / "examples/quickstart.yaml").data, **shown})


def test_what_is_checked_elsewhere_exists() -> None:
    assert [name for name in ELSEWHERE if "```yaml" not in (ROOT / name).read_text()] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_run_that_one_would_start(file: Path) -> None:
    """Whole updates, a finer validation than rollout, held-out prompts, and something kept when it breaks off."""
    config = Config.model_validate(read(file).data)
    assert config.train.mini_batch_prompts is not None
    assert config.rollout.prompts % config.train.mini_batch_prompts == 0
    assert config.rollout.group_size % config.train.micro_batch_size == 0
    assert (config.validation.steps or 0) > config.rollout.steps
    assert config.validation.data is not None
    assert config.validation.data.path != config.data.path
    assert config.train.checkpoint_every > 0
    assert config.precision == "bf16"


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_reads_its_prompts(workplace: Path, file: Path) -> None:
    """And they have the column that its reward reads."""
    config = Config.model_validate(read(file).data)
    assert config.validation.data is not None
    for data in (config.data, config.validation.data):
        rows = load(data, lambda name: Registry().get("datasets", name)[0]).rows
        columns = {column for entry in config.reward if (column := entry.options().get("column"))}
        assert all(columns <= row.metadata.keys() for row in rows)


def test_geneval_scenes_are_found_by_the_name_of_their_format(workplace: Path) -> None:
    resolved = resolve(
        ROOT / "examples/quickstart.yaml", ["data={path: data/geneval/evaluation_metadata.jsonl, format: geneval}"]
    )
    rows = load(resolved.config.data, lambda _: resolved.dataset.object).rows
    tags = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    assert [row.metadata["tag"] for row in rows] == tags


def test_both_experts_of_the_video_recipe_are_trained() -> None:
    """The pipeline takes the second expert below boundary_ratio; the window has noisy steps on either side."""
    folder = FIXTURES / "models/Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    recipe = read(ROOT / "examples/recipes/wan22_t2v.yaml").data
    scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(recipe["rollout"]["steps"])
    first, last = recipe["algorithm"]["window_range"]
    boundary = 1000 * json.loads((folder / "model_index.json").read_text())["boundary_ratio"]
    by_expert = (scheduler.timesteps[first:last] >= boundary).tolist()
    assert by_expert == [True] * 3 + [False] * 3


SMALLER = [
    "model.lora.rank=4",
    "rollout.prompts=4",
    "rollout.group_size=4",
    "rollout.call.height=16",
    "rollout.call.width=16",
    "train.iterations=2",
    "train.mini_batch_prompts=2",
    "train.lr=1e-2",
    "validation={every: 0, prompts: 1, steps: 4, call: {height: 16, width: 16}}",
    "device=cpu",
    "precision=fp32",
]


def test_the_video_recipe_moves_both_experts_of_a_tiny_model(workplace: Path) -> None:
    """Gate, window by group, two updates an iteration, offloading and average as in the recipe."""
    folder = pipelines.build("WanPipeline-two-experts", workplace / "tiny")
    run = train(ROOT / "examples/recipes/wan22_t2v.yaml", [f"model.path={folder}", *SMALLER], workplace / "run")
    moved = {name: bool(p.detach().any()) for name, p in run.model.parameters().items() if ".lora_B" in name}
    assert {name.partition(".")[0] for name in moved} == {"transformer", "transformer_2"}
    assert all(moved.values())


# ------------------------------------------------------------------------------------------------------------ fixtures

PARAMETERS = {
    ("Qwen/Qwen-Image", "transformer"): 20_430_401_088,  # 40,860,802,176 bytes of bf16
    ("Qwen/Qwen-Image", "vae"): 126_892_531,
    ("Qwen/Qwen-Image-Edit-2511", "transformer"): 20_430_401_088,
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer"): 14_288_491_584,  # 57,153,966,336 bytes of fp32
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer_2"): 14_288_491_584,
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "vae"): 126_892_531,
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "transformer"): 14_288_901_184,
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "transformer_2"): 14_288_901_184,
    ("black-forest-labs/FLUX.1-dev", "transformer"): 11_901_408_320,  # 23,802,816,640 bytes of bf16
    ("black-forest-labs/FLUX.1-dev", "vae"): 83_819_683,
    ("Tongyi-MAI/Z-Image", "transformer"): 6_154_908_736,  # as Turbo, of which the figure is
    ("Tongyi-MAI/Z-Image", "vae"): 83_819_683,  # FLUX.1's
}
"""Of the published weights, by their size on the hub or their count (fixtures/README.md)."""


@pytest.mark.parametrize(("model", "component"), PARAMETERS)
def test_a_fixture_is_as_large_as_the_published_model(model: str, component: str) -> None:
    index = json.loads((FIXTURES / "models" / model / "model_index.json").read_text())
    module = built(FIXTURES / "models" / model / component, *index[component])
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[model, component]


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {
    "call": ("sd35_medium_ocr", "guidance_scale:", "guidence_scale:", "Did you mean 'guidance_scale'?"),
    "call of validation": ("wan22_t2v", "{height: 720,", "{hight: 720,", "Did you mean 'height'?"),
    "target": ("sd35_medium_ocr", "attn.to_q\n", "attn.to_qq\n", "ends in 'attn.to_qq'. Did you mean 'attn.to_q'?"),
    "every target": (
        "wan22_t2v",
        "targets: [",
        "targets: [qkv] # [",
        "no linear module of transformer ends in ['qkv']",
    ),
    "window": ("qwen_image_ocr_lora", "window_size: 2", "window_size: 6", "does not fit window_range [0, 5)"),
    "steps": ("wan22_t2v", "steps: 10", "steps: 6", "of 6 steps"),
    "size": ("qwen_image_ocr_lora", "height: 512", "height: 500", "500 is not a multiple of 16"),
    "option": ("qwen_image_full", "clip_range", "clip_rnge", "Did you mean 'clip_range'?"),
    "transition": ("sd35_medium_ocr", "type: sde", "type: sdee", "'sdee'"),
    "reward": ("wan22_t2v", "jpeg_compressibility", "jpeg_compresibility", "Did you mean 'jpeg_compressibility'?"),
    "option of a reward": ("qwen_image_full", "detect: true", "detects: true", "Did you mean 'detect'?"),
    "format": ("qwen_image_full", "format: ocr_txt", "format: ocr_text", "Did you mean 'ocr_txt'?"),
    "model": ("qwen_image_full", "Qwen/Qwen-Image,", "Qwen/Qwen-Imag,", "Qwen/Qwen-Imag"),
    "geometry": ("wan22_t2v", "mini_batch_prompts: 24", "mini_batch_prompts: 64", "an iteration has rollout.prompts"),
}


@pytest.mark.parametrize(("recipe", "right", "wrong", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_recipe_is_a_sentence(workplace: Path, recipe: str, right: str, wrong: str, says: str) -> None:
    text = (ROOT / f"examples/recipes/{recipe}.yaml").read_text()
    assert right in text
    (workplace / "run.yaml").write_text(text.replace(right, wrong))
    with pytest.raises(UserError) as caught:
        checked(workplace / "run.yaml")
    assert says in str(caught.value)
