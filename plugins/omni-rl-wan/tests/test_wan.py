from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

import omni_rl_wan as wan
from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

CALL = {"height": 16, "width": 32, "num_frames": 5, "max_sequence_length": 64}
GUIDED = {**CALL, "guidance_scale": 5.0}


class TestGuided(ModelContract):
    """With the card's guidance, which the plugin suggests."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return wan

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "negative_prompt": "hello"}


class TestTwoExperts(TestGuided):
    """The contract's timesteps lie on both sides of the boundary."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, two_experts):
        return two_experts

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "negative_prompt": "hello", "guidance_scale_2": 3.0}


TestOnRanks = pytest.mark.full(on_ranks(TestTwoExperts))


@pytest.mark.ci
class TestUnguided(TestGuided):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "guidance_scale": 1.0, "negative_prompt": None}


def point(parts, rows=2):
    """Arguments of ``predict`` for rows at timesteps of their own, the first of three beyond the boundary."""
    with torch.no_grad():
        conditioning = universal.encode_prompt(
            model=parts.model, prompts=["a", "b", "c"][:rows], negative_prompts=["hello"] * rows, call=GUIDED
        )
    x = torch.randn(rows, 4, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([950.5, 311.0, 702.5][:rows])
    return {"model": parts.model, "x": {"x": x}, "t": t, "conditioning": conditioning}


def predict(given, **call):
    with torch.no_grad():
        return wan.predict(**given, call={**GUIDED, **call})["x"]


@pytest.mark.parametrize(("scale", "expected"), [(5.0, 4), (1.0, 2)])
def test_one_call_whatever_the_timesteps(parts, rows, scale, expected):
    given, seen = point(parts), rows(parts.model)
    predict(given, guidance_scale=scale)
    assert seen == [("transformer", expected)]


def test_guidance_is_its_formula(parts):
    """In float64 from two calls of the transformer."""
    given = point(parts)

    def raw(sign):
        embeds = given["conditioning"][f"{sign}prompt_embeds"]
        return parts.model.pipe.transformer(given["x"]["x"], given["t"], embeds).sample.double()

    with torch.no_grad():
        positive, negative = raw(""), raw("negative_")
    ours = predict(given)
    torch.testing.assert_close(ours.double(), negative + 5.0 * (positive - negative), rtol=1e-4, atol=1e-5)
    assert (ours - positive).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------------------- two experts


def test_each_expert_is_called_once_for_its_rows(parts_of_two, rows):
    given, seen = point(parts_of_two, 3), rows(parts_of_two.model)
    predict(given)
    assert seen == [("transformer", 2), ("transformer_2", 4)]
    seen.clear()
    predict({**given, "t": torch.tensor([875.0, 875.0, 999.0])})
    assert seen == [("transformer", 6)]
    seen.clear()
    predict({**given, "t": torch.tensor([874.9, 1.0, 2.0])})
    assert seen == [("transformer_2", 6)]


@pytest.mark.parametrize("call", [{}, {"guidance_scale_2": 3.0}, {"guidance_scale_2": 0.5}, {"guidance_scale": 1.0}])
def test_rows_on_both_sides_are_single_calls_of_the_pipeline(parts_of_two, call):
    """The second scale is the first unless given, and cannot switch guidance on or off."""
    given = point(parts_of_two, 3)
    with torch.no_grad():
        own = universal.predict(**given, call={**GUIDED, **call})["x"]
    ours = predict(given, **call)
    assert (ours - own).abs().max() <= 1e-5 * own.abs().max()


def test_both_experts_get_gradients(parts_of_two):
    given, policy = point(parts_of_two, 3), parts_of_two.backend.policy
    wan.predict(**given, call=GUIDED)["x"].square().sum().backward()
    touched = {name.partition(".")[0] for name, p in policy.parameters.items() if p.grad is not None and p.grad.any()}
    for parameter in policy.parameters.values():
        parameter.grad = None
    assert touched == {"transformer", "transformer_2"}


# ------------------------------------------------------------------------------------------------ what upstream does


def test_a_timestep_for_every_token_says_nothing_new(parts, monkeypatch):
    """Wan 2.2 5B: from text, all tokens stand at one timestep."""
    given = point(parts)
    expanded = FrozenDict({**parts.model.pipe.config, "expand_timesteps": True})
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(parts.model.pipe, "_internal_dict", expanded)
        own = universal.predict(**given, call={**GUIDED, "max_sequence_length": 63})["x"]
    ours = predict(given)
    assert (ours - own).abs().max() <= 2e-6 * own.abs().max()


def test_what_it_does_not_know_is_the_pipelines_own(parts):
    given, call = point(parts), {**GUIDED, "attention_kwargs": {"scale": 0.5}}
    assert wan.predict(**given, call=call) is None
    with torch.no_grad():
        half = parts.hooks.predict(**given, call=call, step=None)["x"]
    assert (half - predict(given)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"height": 22}, r"height: 22 is not a multiple of 16\n  try 16"),
        ({"num_frames": 8}, r"num_frames: 8 is not one more than a multiple of 8\n  try 9"),
        ({"num_frames": 16}, r"num_frames: 16 is not one more than a multiple of 8\n  try 17"),
    ],
)
def test_what_upstream_would_round_is_an_error(parts, call, sentence, monkeypatch):
    monkeypatch.setattr(parts.model.pipe, "vae_scale_factor_temporal", 8)
    monkeypatch.setattr(parts.model.pipe, "vae_scale_factor_spatial", 8)
    with pytest.raises(ConfigError, match=f"rollout.call.{sentence}"):
        wan.prepare_latents(parts.model, {**CALL, "num_frames": 9, **call})


def test_shapes_are_upstreams(parts):
    conditioning = {n: v[:1] for n, v in point(parts)["conditioning"].items()}
    for call in (CALL, {**CALL, "num_frames": 1}, {**CALL, "num_frames": 9, "width": 16}):
        own = universal.prepare_latents(model=parts.model, conditioning=conditioning, call=call)
        assert wan.prepare_latents(parts.model, call) == own


def test_a_prompt_that_upstream_would_cut_is_refused(parts):
    def encode(prompts, negative):
        with torch.no_grad():
            parts.hooks.encode_prompt(
                model=parts.model, prompts=prompts, negative_prompts=negative, tokens={}, call=GUIDED
            )

    encode(["  " + "7" * 62 + "  "], [""])  # the pipeline strips blanks before it counts
    with pytest.raises(DataError, match=r"has 66 tokens, and the pipeline keeps 64 .*\n.*rollout.call.max_sequence"):
        encode(["a", "7" * 64], ["", ""])
    with pytest.raises(DataError, match=r"keeps 64 of them: 'Bright tones"):
        encode(["a"], [wan.NEGATIVE_PROMPT])
