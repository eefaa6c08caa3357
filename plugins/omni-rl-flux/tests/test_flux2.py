from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl_flux import flux2
from omni_rl_testing.model import ModelContract, assembled
from omni_rl_testing.ranks import on_ranks

KLEIN = {"height": 16, "width": 24, "max_sequence_length": 64, "text_encoder_out_layers": [1, 2]}
FLUX2 = {**KLEIN, "max_sequence_length": 512}


class TestKlein(ModelContract):
    """With classifier-free guidance, which the plugin suggests."""

    architecture = "Flux2KleinPipeline"

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder(cls.architecture)

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return flux2

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return KLEIN


TestOnRanks = pytest.mark.full(on_ranks(TestKlein))


@pytest.mark.ci
class TestUnguidedKlein(TestKlein):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**KLEIN, "guidance_scale": 1.0}


@pytest.mark.ci
class TestFlux2(TestKlein):
    """It is told its guidance."""

    architecture = "Flux2Pipeline"

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return FLUX2


@pytest.fixture(scope="module")
def klein(tiny_folder):
    return assembled(tiny_folder("Flux2KleinPipeline"), flux2, KLEIN, ("a", "b"))


@pytest.fixture(scope="module")
def told(tiny_folder):
    return assembled(tiny_folder("Flux2Pipeline"), flux2, FLUX2, ("a", "b"))


def point(parts, call):
    """Arguments of ``predict`` for two rows at timesteps of their own."""
    with torch.no_grad():
        conditioning = universal.encode_prompt(model=parts.model, prompts=["a", "b"], negative_prompts=None, call=call)
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    return {"model": parts.model, "x": {"x": x}, "t": torch.tensor([311.0, 702.5]), "conditioning": conditioning}


def watched(parts, given, **call):
    """(velocity, arguments of the transformer's calls)."""
    seen = []
    hook = parts.model.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        velocity = flux2.predict(**given, call={**KLEIN, **call})["x"]
    hook.remove()
    return velocity, seen


@pytest.mark.parametrize(("scale", "expected"), [(4.0, 4), (1.0, 2)])
def test_klein_is_called_once_whatever_the_timesteps(klein, scale, expected):
    _, seen = watched(klein, point(klein, {**KLEIN, "guidance_scale": 4.0}), guidance_scale=scale)
    assert [len(kwargs["hidden_states"]) for kwargs in seen] == [expected]
    assert seen[0]["guidance"] is None


def test_a_distilled_klein_ignores_guidance(klein, monkeypatch):
    given = point(klein, {**KLEIN, "guidance_scale": 4.0})
    plain, _ = watched(klein, given, guidance_scale=1.0)
    monkeypatch.setattr(
        klein.model.pipe, "_internal_dict", FrozenDict({**klein.model.pipe.config, "is_distilled": True})
    )
    distilled, seen = watched(klein, given, guidance_scale=4.0)
    assert [len(kwargs["hidden_states"]) for kwargs in seen] == [2]
    assert torch.equal(distilled, plain)


def test_guidance_of_klein_is_its_formula(klein):
    """In float64 from two calls of the transformer, each at its own timestep."""
    given = point(klein, {**KLEIN, "guidance_scale": 4.0})
    both, seen = watched(klein, given, guidance_scale=4.0)

    def raw(rows):
        sliced = {
            n: v[rows] if n in ("hidden_states", "timestep", "encoder_hidden_states") else v for n, v in seen[0].items()
        }
        with torch.no_grad():
            return klein.model.pipe.transformer(**sliced)[0].double()

    negative, positive = raw(slice(0, 2)), raw(slice(2, 4))
    torch.testing.assert_close(both.double(), negative + 4.0 * (positive - negative), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("given", "expected"), [({}, 4.0), ({"guidance_scale": 2.5}, 2.5)])
def test_flux2_is_told_its_guidance(told, given, expected):
    _, seen = watched(told, point(told, FLUX2), **given)
    assert [kwargs["guidance"].tolist() for kwargs in seen] == [[expected, expected]]


def test_what_it_does_not_know_is_the_pipelines_own(klein):
    given, call = point(klein, KLEIN), {**KLEIN, "attention_kwargs": {"scale": 0.5}}
    assert flux2.predict(**given, call=call) is None
    assert flux2.prepare_latents(klein.model, {}, {**KLEIN, "image": object()}) is None
    with torch.no_grad():
        half, whole = (klein.hooks.predict(**given, call=c, step=None)["x"] for c in (call, KLEIN))
    assert (half - whole).abs().max() > 1e-4


def test_of_pictures_the_pipeline_itself_is_asked(klein):
    """They come as ``data.media``, beside the arguments."""
    given = point(klein, KLEIN)
    pictured = given["conditioning"] | {"size_of_image": torch.full((2, 2), 16)}
    assert flux2.predict(**{**given, "conditioning": pictured}, call=KLEIN) is None
    assert flux2.prepare_latents(klein.model, pictured, KLEIN) is None


def test_shapes_are_upstreams(klein):
    row = {n: v[:1] for n, v in point(klein, KLEIN)["conditioning"].items()}
    for size in ({}, {"height": 4, "width": 4}):
        call = {**KLEIN, **size}
        own = universal.prepare_latents(model=klein.model, conditioning=row, call=call)
        assert flux2.prepare_latents(klein.model, {}, call) == own


def test_a_size_that_upstream_would_round_is_an_error(klein):
    with pytest.raises(ConfigError, match=r"rollout.call.height: 22 is not a multiple of 4\n  try 20"):
        flux2.prepare_latents(klein.model, {}, {**KLEIN, "height": 22})


@pytest.mark.parametrize(("fixture", "limit"), [("klein", 64), ("told", 512)])
def test_a_prompt_that_upstream_would_cut_is_refused(request, fixture, limit):
    """The longest that fits does not change when the encoder is given room for more."""
    parts = request.getfixturevalue(fixture)

    def encode(prompts, room):
        call = {**KLEIN, "max_sequence_length": room}
        with torch.no_grad():
            return parts.hooks.encode_prompt(
                model=parts.model, prompts=prompts, negative_prompts=None, tokens={}, call=call
            )

    with pytest.raises(DataError, match=rf"the pipeline keeps {limit} of them: '777"):
        encode(["a", "7" * limit], limit)
    with pytest.raises(DataError) as refused:
        encode(["7" * limit], limit)
    needed = int(str(refused.value).split(" tokens")[0].split()[-1])
    room = 2 * limit - needed  # digits, a token each
    assert encode(["7" * room], limit)["prompt_embeds"].shape[1] == limit
    with pytest.raises(DataError, match=rf"has {limit + 1} tokens"):
        encode(["7" * (room + 1)], limit)
