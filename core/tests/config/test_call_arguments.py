"""Arguments for the pipeline: omni-rl's own are refused with a reason, the rest is checked against the pipeline."""

from __future__ import annotations

import inspect

import pytest

from omni_rl.config.call_arguments import check_call, forbidden
from omni_rl.config.resolve import resolve
from omni_rl.contracts.call import effective_call
from omni_rl.errors import ConfigError


class Pipeline:
    def __call__(self, prompt=None, num_inference_steps=50, height=None, guidance_scale=4.0, generator=None):
        pass


class Open:
    def __call__(self, prompt=None, **kwargs):
        pass


FEW_STEPS = (
    "the pipeline's own scheduler computes the schedule from rollout.steps; for a few-step model, set rollout.steps "
    "and edit scheduler_config.json"
)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("prompt", "prompts come from data.path"),
        ("num_inference_steps", "set rollout.steps"),
        ("num_images_per_prompt", "set rollout.group_size"),
        ("num_videos_per_prompt", "set rollout.group_size"),
        ("prompt_embeds", "omni-rl encodes the prompts and keeps the embeddings"),
        ("prompt_embeds_mask", "omni-rl encodes the prompts and keeps the embeddings"),
        ("negative_prompt_embeds", "omni-rl encodes the prompts and keeps the embeddings"),
        ("negative_pooled_prompt_embeds", "omni-rl encodes the prompts and keeps the embeddings"),
        ("prompt_attention_mask", "omni-rl encodes the prompts and keeps the embeddings"),
        ("latents", "omni-rl draws the initial noise itself, from `seed`"),
        ("generator", "every random draw follows from `seed`; no generator is used"),
        ("sigmas", FEW_STEPS),
        ("timesteps", FEW_STEPS),
        ("output_type", "omni-rl decodes the samples itself"),
        ("return_dict", "omni-rl decodes the samples itself"),
        ("callback_on_step_end", "omni-rl runs the denoising loop; a plugin's hooks are called at every step"),
        (
            "callback_on_step_end_tensor_inputs",
            "omni-rl runs the denoising loop; a plugin's hooks are called at every step",
        ),
    ],
)
def test_what_is_omni_rls_own(key, reason):
    assert list(forbidden({key: 1}, "rollout.call")) == [(key, reason)]


@pytest.mark.parametrize("key", ["negative_prompt", "height", "guidance_scale", "max_sequence_length", "image"])
def test_what_is_the_users(key):
    assert list(forbidden({key: 1}, "rollout.call")) == []


def test_validation_has_its_own_keys():
    assert dict(forbidden({"num_inference_steps": 1, "num_images_per_prompt": 2}, "validation.call")) == {
        "num_inference_steps": "set validation.steps",
        "num_images_per_prompt": "set validation.samples_per_prompt",
    }


def test_an_argument_that_the_pipeline_does_not_have():
    with pytest.raises(ConfigError) as error:
        check_call({"guidance_scal": 3, "height": 64}, Pipeline)
    assert str(error.value) == (
        "rollout.call: Pipeline has no argument 'guidance_scal'. Did you mean 'guidance_scale'?\n"
        "  rollout.call takes: height, guidance_scale"
    )


def test_every_wrong_argument_is_named_with_its_place(project):
    resolved = resolve("config.yaml", ["rollout.call.hight=64", "rollout.call.x=1"])
    with pytest.raises(ConfigError) as error:
        check_call({"hight": 64, "x": 1, "generator": 3}, Pipeline, place=resolved.place)
    assert str(error.value) == (
        "rollout.call.generator cannot be set: every random draw follows from `seed`; no generator is used\n"
        "  override 'rollout.call.hight=64': Pipeline has no argument 'hight'. Did you mean 'height'?\n"
        "  override 'rollout.call.x=1': Pipeline has no argument 'x'.\n"
        "  rollout.call takes: height, guidance_scale"
    )


def test_right_arguments_pass():
    check_call({"height": 64, "guidance_scale": None}, Pipeline)
    check_call({"anything": 1}, Open)


class Scaled:
    def __call__(self, scale: float = 1.0, scales: float | list[float] = 1.0):
        pass


@pytest.mark.parametrize("value", ["1.0", [[]], [1.0], {"a": 1}], ids=str)
def test_a_number_is_a_number(value):
    with pytest.raises(ConfigError, match="scale takes a number, not "):
        check_call({"scale": value}, Scaled)


def test_where_the_annotation_says_so_a_list_passes():
    check_call({"scale": 2, "scales": [1.0, 2.0]}, Scaled)
    with pytest.raises(ConfigError, match="scales takes a number"):
        check_call({"scales": "1.0"}, Scaled)


def test_later_calls_win_and_null_is_left_out():
    assert effective_call({"a": 1, "b": 2, "c": None}, {"b": None, "d": 0}) == {"a": 1, "d": 0}


@pytest.mark.ci
@pytest.mark.filterwarnings("default")  # what importing diffusers says is not the point here
def test_a_real_pipeline():
    from diffusers import QwenImagePipeline, StableDiffusion3Pipeline

    check_call(
        {"true_cfg_scale": 4.0, "negative_prompt": " ", "height": 64, "max_sequence_length": 64}, QwenImagePipeline
    )
    with pytest.raises(
        ConfigError, match=r"QwenImagePipeline has no argument 'true_cfg_scal'\. Did you mean 'true_cfg_scale'"
    ):
        check_call({"true_cfg_scal": 4.0}, QwenImagePipeline)
    for pipeline in (QwenImagePipeline, StableDiffusion3Pipeline):
        given = {name for name in inspect.signature(pipeline.__call__).parameters if name != "self"}
        own = {key for key, _ in forbidden(dict.fromkeys(given), "rollout.call")}
        assert own >= {name for name in given if ("embeds" in name and "prompt" in name) or name.startswith("callback")}
        assert not own & {"negative_prompt", "height", "width"}
