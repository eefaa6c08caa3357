from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl_flux import flux1
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}
TRUE_CFG = {**CALL, "true_cfg_scale": 2.0}


class TestTrueCFG(ModelContract):
    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder("FluxPipeline")

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return flux1

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**TRUE_CFG, "negative_prompt": "hello"}


TestOnRanks = pytest.mark.full(on_ranks(TestTrueCFG))


@pytest.mark.ci
class TestWithoutCFG(TestTrueCFG):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return CALL


@pytest.fixture
def point(parts):
    """Arguments of ``predict`` for two rows at timesteps of their own."""
    with torch.no_grad():
        conditioning = universal.encode_prompt(
            model=parts.model, prompts=["a", "b"], negative_prompts=["hello", "hello"], call=TRUE_CFG
        )
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    return {"model": parts.model, "x": {"x": x}, "t": torch.tensor([311.0, 702.5]), "conditioning": conditioning}


@pytest.fixture
def seen(parts):
    """Arguments of every call of the transformer."""
    calls = []
    handle = parts.model.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    yield calls
    handle.remove()


@pytest.mark.parametrize(
    ("call", "negative", "expected"),
    [(TRUE_CFG, True, 4), (CALL, True, 2), (TRUE_CFG, False, 2)],
    ids=["on", "scale 1", "no negative prompt"],
)
def test_one_call_whatever_the_timesteps(point, seen, call, negative, expected):
    kept = {n: v for n, v in point["conditioning"].items() if negative or not n.startswith("negative_")}
    with torch.no_grad():
        flux1.predict(**{**point, "conditioning": kept}, call=call)
    assert [len(kwargs["hidden_states"]) for kwargs in seen] == [expected]


@pytest.mark.parametrize(("given", "expected"), [({}, 3.5), ({"guidance_scale": 7.0}, 7.0)])
def test_a_distilled_model_is_told_its_guidance(point, seen, given, expected):
    with torch.no_grad():
        flux1.predict(**point, call={**CALL, **given})
    assert seen[0]["guidance"].tolist() == [expected, expected]


def test_another_model_is_not(parts, point, seen, monkeypatch):
    """FLUX.1 schnell has no such input."""
    schnell = FrozenDict({**parts.model.pipe.transformer.config, "guidance_embeds": False})
    monkeypatch.setattr(parts.model.pipe.transformer, "_internal_dict", schnell)
    with pytest.raises(TypeError, match="TimestepGuidance"), torch.no_grad():  # these weights have it
        flux1.predict(**point, call=CALL)
    assert seen[0]["guidance"] is None


def test_positions_are_the_pipelines(parts):
    own = parts.model.pipe._prepare_latent_image_ids(1, 4, 6, torch.device("cpu"), torch.float32)
    assert torch.equal(flux1._positions(0, 4, 6), own)


def test_what_it_does_not_know_is_the_pipelines_own(parts, point):
    call = {**CALL, "joint_attention_kwargs": {"scale": 0.5}}
    assert flux1.predict(**point, call=call) is None
    with torch.no_grad():
        half, whole = (parts.hooks.predict(**point, call=c, step=None)["x"] for c in (call, CALL))
    assert (half - whole).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "pixels", "near"), [("height", 22, 20), ("width", 3, 4)])
def test_a_size_that_upstream_would_round_is_an_error(parts, name, pixels, near):
    with pytest.raises(ConfigError, match=rf"rollout.call.{name}: {pixels} is not a multiple of 4\n  try {near}"):
        flux1.prepare_latents(parts.model, {**CALL, name: pixels})


def test_shapes_are_upstreams(parts):
    for call in (CALL, {"height": 4, "width": 4}, {}):
        own = universal.prepare_latents(model=parts.model, conditioning=embeds(parts), call={**CALL, **call})
        assert flux1.prepare_latents(parts.model, {**CALL, **call}) == own


def embeds(parts, prompts=("a",), **call):
    with torch.no_grad():
        return parts.hooks.encode_prompt(
            model=parts.model, prompts=list(prompts), negative_prompts=None, tokens={}, call={**CALL, **call}
        )


def test_a_prompt_that_t5_would_cut_is_refused(parts):
    assert embeds(parts, ["7" * 62])["prompt_embeds"].shape == (1, 64, 32)
    with pytest.raises(DataError, match=r"has 66 tokens, and the pipeline keeps 64 .*\n.*rollout.call.max_sequence"):
        embeds(parts, ["a", "7" * 64])
    embeds(parts, ["7" * 64], max_sequence_length=80)
