from __future__ import annotations

import pytest
import torch

import omni_rl_sd3 as sd3
from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


class TestGuided(ModelContract):
    """With the card's guidance, which the plugin suggests."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return sd3

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "negative_prompt": "hello"}


TestOnRanks = pytest.mark.full(on_ranks(TestGuided))


@pytest.mark.ci
class TestUnguided(TestGuided):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "guidance_scale": 1.0}


@pytest.fixture
def point(parts):
    """Arguments of ``predict`` for two rows at timesteps of their own; the negative prompt is the empty one."""
    call = {**CALL, "guidance_scale": 4.5}
    with torch.no_grad():
        conditioning = universal.encode_prompt(model=parts.model, prompts=["a", "b"], negative_prompts=None, call=call)
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    return {"model": parts.model, "x": {"x": x}, "t": torch.tensor([311.0, 702.5]), "conditioning": conditioning}


@pytest.fixture
def rows(parts):
    """Rows of every call of the transformer."""
    seen = []
    handle = parts.model.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    yield seen
    handle.remove()


@pytest.mark.parametrize(("scale", "expected"), [(4.5, [4]), (1.0, [2]), (0.0, [2])])
def test_one_call_whatever_the_timesteps(point, rows, scale, expected):
    with torch.no_grad():
        sd3.predict(**point, call={**CALL, "guidance_scale": scale})
    assert rows == expected


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_every_scale_is_the_pipelines(point, scale):
    call = {**CALL, "guidance_scale": scale}
    with torch.no_grad():
        ours, own = sd3.predict(**point, call=call)["x"], universal.predict(**point, call=call)["x"]
    assert (ours - own).abs().max() <= 1e-5 * own.abs().max()


def test_guidance_is_its_formula(parts, point):
    """In float64 from two calls of the transformer."""
    text = point["conditioning"]

    def raw(sign):
        output = parts.model.pipe.transformer(
            hidden_states=point["x"]["x"],
            timestep=point["t"],
            encoder_hidden_states=text[f"{sign}prompt_embeds"],
            pooled_projections=text[f"{sign}pooled_prompt_embeds"],
        )
        return output.sample.double()

    with torch.no_grad():
        positive, negative = raw(""), raw("negative_")
        ours = sd3.predict(**point, call={**CALL, "guidance_scale": 4.5})["x"]
    torch.testing.assert_close(ours.double(), negative + 4.5 * (positive - negative), rtol=1e-4, atol=1e-5)
    assert (ours - positive).abs().max() > 1e-2


def test_what_it_does_not_know_is_the_pipelines_own(parts, point):
    """The scale of adapters, for one, which only the pipeline's own call applies."""
    call = {**CALL, "guidance_scale": 4.5, "joint_attention_kwargs": {"scale": 0.5}}
    assert sd3.predict(**point, call=call) is None
    with torch.no_grad():
        half, whole = (
            parts.hooks.predict(**point, call=c, step=None)["x"] for c in (call, {**CALL, "guidance_scale": 4.5})
        )
    assert (half - whole).abs().max() > 1e-4


def test_skipped_layers_are_refused(point):
    with pytest.raises(ConfigError, match=r"rollout.call.skip_guidance_layers: .*step"):
        sd3.predict(**point, call={**CALL, "skip_guidance_layers": [0]})


def encode(parts, prompts, negative=None, **call):
    return parts.hooks.encode_prompt(
        model=parts.model, prompts=prompts, negative_prompts=negative, tokens={}, call={**CALL, **call}
    )


def test_a_prompt_that_every_encoder_would_cut_is_refused(parts):
    with torch.no_grad():
        assert encode(parts, ["7" * 62])["prompt_embeds"].shape == (1, 77 + 64, 64)
        with pytest.raises(DataError, match=r"has 66 tokens, and the pipeline keeps 64 of them: '7777.*'\.\.\.\n"):
            encode(parts, ["a", "7" * 64])
        with pytest.raises(DataError, match=r"rollout.call.max_sequence_length"):
            encode(parts, ["a"], ["7" * 64])
        encode(parts, ["7" * 64], max_sequence_length=80)


def test_without_t5_clip_is_the_longest(parts, monkeypatch):
    monkeypatch.setattr(parts.model.pipe, "text_encoder_3", None)
    with torch.no_grad():
        encode(parts, ["7" * 75])
        with pytest.raises(DataError, match=r"has 78 tokens, and the pipeline keeps 77 .*\n.*no T5"):
            encode(parts, ["7" * 76])
