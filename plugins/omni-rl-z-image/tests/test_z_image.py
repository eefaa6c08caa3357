from __future__ import annotations

import pytest
import torch

import omni_rl_z_image as z_image
from omni_rl.errors import DataError
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}
GUIDED = {**CALL, "guidance_scale": 4.0}


class TestGuided(ModelContract):
    """With the card's guidance, which the plugin suggests."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return z_image

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
        return {**CALL, "guidance_scale": 0.0}


@pytest.fixture
def point(parts):
    """Arguments of ``predict`` for two rows at timesteps of their own, whose texts differ in length."""
    texts = {"prompts": ["a", "a sign that says hello"], "negative_prompts": ["the world", ""]}
    with torch.no_grad():
        conditioning = universal.encode_prompt(model=parts.model, **texts, call=GUIDED)
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    return {"model": parts.model, "x": {"x": x}, "t": torch.tensor([311.0, 702.5]), "conditioning": conditioning}


@pytest.fixture
def rows(parts, point):
    """Rows of every call of the transformer."""
    seen = []
    handle = parts.model.pipe.transformer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    yield seen
    handle.remove()


def predict(given, **call):
    with torch.no_grad():
        return z_image.predict(**given, call={**GUIDED, **call})["x"]


@pytest.mark.parametrize(("scale", "expected"), [(4.0, [4]), (0.5, [4]), (0.0, [2])])
def test_one_call_whatever_the_timesteps(point, rows, scale, expected):
    predict(point, guidance_scale=scale)
    assert rows == expected


def test_guidance_is_its_formula(parts, point):
    """Row by row in float64 from two calls of the transformer."""
    text = point["conditioning"]

    def raw(row, sign):
        length = int(text[f"{sign}prompt_embeds_list_mask"][row].sum())
        embeds, t = text[f"{sign}prompt_embeds"][row, :length], (1000 - point["t"][row : row + 1]) / 1000
        (output,) = parts.model.pipe.transformer([point["x"]["x"][row][:, None]], t, [embeds]).sample
        return -output[:, 0].double()

    for row, ours in enumerate(predict(point)):
        with torch.no_grad():
            positive, negative = raw(row, ""), raw(row, "negative_")
        expected = positive + 4.0 * (positive - negative)
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert (ours - positive).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 5.0])
def test_every_scale_is_the_pipelines(parts, point, scale):
    """Guidance is on above 0, not above 1."""
    with torch.no_grad():
        own = universal.predict(**point, call={**GUIDED, "guidance_scale": scale})["x"]
    assert (predict(point, guidance_scale=scale) - own).abs().max() <= 1e-5 * own.abs().max()


@pytest.mark.parametrize("extra", [{"cfg_normalization": True}, {"cfg_truncation": 0.5}])
def test_what_it_does_not_know_is_the_pipelines_own(parts, point, extra):
    assert z_image.predict(**point, call={**GUIDED, **extra}) is None
    with torch.no_grad():
        own = parts.hooks.predict(**point, call={**GUIDED, **extra}, step=None)["x"]
    assert (own - predict(point)).abs().max() > 1e-4


def test_a_prompt_that_upstream_would_cut_is_refused(parts):
    def encode(prompts, negative):
        with torch.no_grad():
            parts.hooks.encode_prompt(
                model=parts.model, prompts=prompts, negative_prompts=negative, tokens={}, call=GUIDED
            )

    chat = [{"role": "user", "content": "7"}]
    text = parts.model.pipe.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    room = 64 - len(parts.model.pipe.tokenizer(text).input_ids) + 1  # a digit is a token
    encode(["7" * room], [""])
    with pytest.raises(DataError, match=r"has 65 tokens, .* keeps 64 of them: '777.*\n.*rollout.call.max_sequence"):
        encode(["a", "7" * (room + 1)], ["", ""])
    with pytest.raises(DataError, match="keeps 64 of them"):
        encode(["a"], ["7" * (room + 1)])
