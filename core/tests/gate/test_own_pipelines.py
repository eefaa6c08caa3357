"""Pipelines of diffusers that core cannot run: one sentence says the true cause, and what to do."""

from __future__ import annotations

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from omni_rl.errors import ModelError
from omni_rl.gate.rows import gap
from omni_rl.run.start import check

MASK = np.zeros((32, 32, 3), np.uint8)
MASK[8:24, 8:24] = 255


@pytest.fixture
def from_media(configure, tiny_folder, tmp_path):
    """``from_media(name, base, media, **call)``: a configuration of the pipeline ``name`` of the parts of ``base``."""

    def make(name: str, base: str, media: tuple[str, ...], **call):
        parts = DiffusionPipeline.from_pretrained(tiny_folder(base)).components
        pipeline = getattr(diffusers, name)
        taken = inspect.signature(pipeline.__init__).parameters
        pipeline(**{n: part for n, part in parts.items() if n in taken}).save_pretrained(tmp_path / "model")
        noise = np.random.default_rng(0)
        files = {"image": "image.png", "mask_image": "mask.png", "video": "clip.gif"}
        pictures = [Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(5)]
        pictures[0].save(tmp_path / "image.png")
        Image.fromarray(MASK).save(tmp_path / "mask.png")
        pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:])
        row = {"prompt": "hello world", **{each: files[each] for each in media}}
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        config = configure(base, data={"path": str(tmp_path / "rows.jsonl"), "media": {each: each for each in media}})
        config["model"] |= {"path": str(tmp_path / "model"), "plugin": "universal"}
        kept = {"guidance_scale": 3.5, "height": 32, "width": 32, "max_sequence_length": 48, **call}
        config["rollout"] |= {"prompts": 1, "group_size": 2, "batch_size": 2, "call": kept}
        return config

    return make


STRENGTH = "set rollout.call.strength: 1.0, so that it starts from noise alone, or use a pipeline without strength"
NOISED = "it starts from an image or video with noise, and core from noise alone"


@pytest.mark.parametrize(
    ("name", "base", "media", "sentence"),
    [
        ("FluxInpaintPipeline", "FluxPipeline", ("image", "mask_image"), "FluxInpaintPipeline takes its first step at"),
        ("FluxImg2ImgPipeline", "FluxPipeline", ("image",), "FluxImg2ImgPipeline takes its first step at timestep"),
        ("WanVideoToVideoPipeline", "WanPipeline", ("video",), "WanVideoToVideoPipeline takes no step when"),
    ],
)
def test_pipelines_that_start_from_noised_media_are_told_how_to_start_from_noise(
    name, base, media, sentence, from_media
):
    with pytest.raises(ModelError, match=f"{sentence} .*: {NOISED}") as raised:
        check(from_media(name, base, media))
    assert raised.value.hint == STRENGTH


def test_at_full_strength_they_train_if_latents_stay_as_core_steps_them(from_media):
    rows = {row.name: row for row in check(from_media("FluxImg2ImgPipeline", "FluxPipeline", ("image",), strength=1.0))}
    assert {row.verdict for row in rows.values()} == {"ok", "info"}
    assert rows["own loop"].verdict == "ok"


def test_inpainting_changes_latents_between_steps_and_the_row_says_so(from_media):
    config = from_media("FluxInpaintPipeline", "FluxPipeline", ("image", "mask_image"), strength=1.0)
    rows = {row.name: row for row in check(config)}
    assert rows["own loop"].verdict == "fail"
    assert rows["own loop"].detail.endswith(
        "; the pipeline changes latents between its steps, and core's loop does not"
    )


def test_a_pipeline_that_takes_a_video_or_latents_needs_a_plugin(from_media):
    sentence = (
        "WanVideoToVideoPipeline does not take the latents that core gives it as latents=: .* Only one of `video`"
    )
    with pytest.raises(ModelError, match=sentence) as raised:
        check(from_media("WanVideoToVideoPipeline", "WanPipeline", ("video",), strength=1.0))
    assert raised.value.hint == "this model needs a plugin: omni-rl new model"


def test_a_solver_of_several_velocities_a_step_is_named(configure, tiny_folder, tmp_path):
    name = "FlowMatchHeunDiscreteScheduler"
    folder = shutil.copytree(tiny_folder("StableDiffusion3Pipeline"), tmp_path / "model")
    getattr(diffusers, name)().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    sentence = f"{name} repeats timesteps: it computes several velocities in one step"
    with pytest.raises(ModelError, match=sentence) as raised:
        check(configure("StableDiffusion3Pipeline", model={"path": str(folder)}))
    assert raised.value.hint.startswith("choose FlowMatchEulerDiscreteScheduler")


@pytest.mark.parametrize("plugin", ["universal", "auto"])
def test_one_text_for_a_further_encoder_is_that_of_every_prompt(plugin, configure):
    config = configure("StableDiffusion3Pipeline")
    config["rollout"]["call"] = {**config["rollout"]["call"], "prompt_2": "a dog", "negative_prompt_3": "a cat"}
    if plugin == "universal":
        config["model"]["plugin"] = plugin
    rows = {row.name: row for row in check(config)}
    assert rows["text"].verdict == rows["own loop"].verdict == "ok"


def test_embeddings_of_no_tokens_do_not_differ():
    assert gap(torch.zeros(0, 4), torch.zeros(0, 4)) == 0
