from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

import omni_rl_qwen_image as qwen
from omni_rl.errors import ConfigError, DataError
from omni_rl.model.loading import load_model
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

PROMPTS = ("a", "a sign that says hello", "describe the image of a world with 9 signs and 12345678 users", "7" * 200)
SIZE = {"height": 16, "width": 32}


class TestTrueCFG(ModelContract):
    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return qwen

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**SIZE, "true_cfg_scale": 4.0, "negative_prompt": "hello"}

    @pytest.fixture(scope="module")
    @classmethod
    def prompts(cls):
        return PROMPTS


TestOnRanks = pytest.mark.full(on_ranks(TestTrueCFG))


@pytest.mark.ci
class TestWithoutCFG(TestTrueCFG):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return SIZE


# --------------------------------------------------------------------------------------------------------------- text


def encoded(model, prompts, call=SIZE):
    with torch.no_grad():
        tokens = qwen.tokenize(model, prompts)
        return tokens, qwen.encode_prompt(model, tokens, call)


@pytest.mark.parametrize(
    "prompts", [PROMPTS, *((prompt,) for prompt in PROMPTS)], ids=lambda p: f"{len(p)}x{len(p[0])}"
)
def test_embeddings_are_upstreams_to_the_bit(model, upstream, prompts):
    with torch.no_grad():
        embeds, mask = upstream.encode_prompt(list(prompts))
    _, ours = encoded(model, prompts)
    assert torch.equal(ours["prompt_embeds"], embeds)
    assert torch.equal(ours["prompt_embeds_mask"], torch.ones_like(embeds[..., 0]).long() if mask is None else mask)


def test_token_ids_are_those_of_the_template(model, upstream):
    """Recorded with the template's prefix, which upstream drops from the embeddings only."""
    tokens, ours = encoded(model, PROMPTS)
    template = upstream.prompt_template_encode
    for row, prompt in enumerate(PROMPTS):
        ids = tokens["prompt_ids"][row][tokens["prompt_ids_mask"][row].bool()]
        assert ids.tolist() == upstream.tokenizer(template.format(prompt)).input_ids
        assert len(ids) - upstream.prompt_template_encode_start_idx == ours["prompt_embeds_mask"][row].sum()


def room(model) -> int:
    """Digits, a token each, that fit beside the template's end."""
    return qwen.MAX_TOKENS - int(encoded(model, ["7"])[1]["prompt_embeds_mask"].sum()) + 1


def test_the_longest_prompt_is_upstreams(model, upstream):
    """One token less than what is refused still reaches the model whole."""
    prompt, call = "7" * room(model), {**SIZE, "max_sequence_length": 1024}
    _, ours = encoded(model, [prompt], call)
    with torch.no_grad():
        embeds, _ = upstream.encode_prompt(prompt, max_sequence_length=1024)
    assert embeds.shape[1] == qwen.MAX_TOKENS
    assert torch.equal(ours["prompt_embeds"], embeds)


def test_a_longer_prompt_is_refused_and_named(model):
    with pytest.raises(DataError, match=r"takes 1024 tokens, not 1025: '7777"):
        qwen.tokenize(model, ["a", "7" * (room(model) + 1)])


def test_a_prompt_that_upstreams_call_would_cut_is_refused(model):
    """``QwenImagePipeline.__call__`` keeps ``max_sequence_length`` embeddings, 512 unless told otherwise."""
    with pytest.raises(DataError, match=r"keeps 512 .*\n.*rollout.call.max_sequence_length"):
        encoded(model, ["7" * 600])
    with pytest.raises(DataError, match="keeps 100 "):
        encoded(model, ["7" * 200], {**SIZE, "max_sequence_length": 100})
    assert encoded(model, ["7" * 600], {**SIZE, "max_sequence_length": 700})[1]["prompt_embeds"].shape[1] > 600


# ----------------------------------------------------------------------------------------------------------- guidance


@pytest.fixture
def point(model):
    """x, t and conditioning of two rows whose prompts differ in length."""
    generator = torch.Generator().manual_seed(0)
    _, positive = encoded(model, PROMPTS[:2])
    _, negative = encoded(model, ["hello", "hello"])
    conditioning = {**positive, **{f"negative_{name}": value for name, value in negative.items()}}
    return {"x": torch.randn(2, 32, 16, generator=generator)}, torch.tensor([612.5, 612.5]), conditioning


@pytest.fixture
def calls(model):
    seen = []
    handle = model.pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


@pytest.mark.parametrize(
    ("call", "negative", "expected"),
    [
        ({"true_cfg_scale": 4.5}, True, 2),
        ({"true_cfg_scale": 1.0}, True, 1),
        ({"true_cfg_scale": 4.5}, False, 1),
        ({}, True, 1),
    ],
    ids=["on", "scale 1", "no negative prompt", "no scale"],
)
def test_the_denoiser_is_called_twice_exactly_with_guidance(model, point, calls, call, negative, expected):
    x, t, conditioning = point
    given = {name: value for name, value in conditioning.items() if negative or not name.startswith("negative_")}
    with torch.no_grad():
        qwen.predict(model, x, t, given, {**SIZE, **call})
    assert len(calls) == expected


@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_guidance_is_its_formula_and_the_pipelines(model, point, scale):
    """neg + s (pos - neg), each token scaled back to the norm of pos; in float64 from raw calls."""
    x, t, conditioning = point
    call = {**SIZE, "true_cfg_scale": scale}
    with torch.no_grad():
        positive, negative = (raw(model, x["x"], t, conditioning, sign) for sign in ("", "negative_"))
        ours = qwen.predict(model, x, t, conditioning, call)["x"]
        own = universal.predict(model, x, t, conditioning, call)["x"]
    guided = negative + scale * (positive - negative)
    guided *= positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ours.double(), guided, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, own, rtol=2e-6, atol=2e-6)
    if scale > 1:
        assert (ours - positive).abs().max() > 1e-2


def raw(model, x, t, conditioning, sign):
    mask = conditioning[f"{sign}prompt_embeds_mask"]
    output = model.pipe.transformer(
        hidden_states=x,
        timestep=t / 1000,
        encoder_hidden_states=conditioning[f"{sign}prompt_embeds"],
        encoder_hidden_states_mask=None if mask.all() else mask,
        img_shapes=[[(1, 4, 8)]] * len(x),
        return_dict=False,
    )
    return output[0].double()


def test_a_distilled_model_needs_its_guidance_scale(model, point, monkeypatch):
    x, t, conditioning = point
    distilled = FrozenDict({**model.pipe.transformer.config, "guidance_embeds": True})
    monkeypatch.setattr(model.pipe.transformer, "_internal_dict", distilled)
    with pytest.raises(ConfigError, match=r"rollout.call.guidance_scale"):
        qwen.predict(model, x, t, conditioning, SIZE)


# --------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize(("name", "pixels", "near"), [("height", 22, 20), ("width", 33, 32), ("width", 3, 4)])
def test_a_size_that_upstream_would_round_is_an_error(model, name, pixels, near):
    """Reward and report would show another size than was asked for."""
    with pytest.raises(ConfigError, match=rf"rollout.call.{name}: {pixels} is not a multiple of 4\n  try {near}"):
        qwen.prepare_latents(model, {**SIZE, name: pixels})


def test_shapes_are_upstreams(model, upstream):
    for call in (SIZE, {"height": 64, "width": 64}, {"height": 4, "width": 4}):
        latents = upstream.prepare_latents(
            1, 4, call["height"], call["width"], torch.float32, torch.device("cpu"), torch.Generator()
        )
        assert qwen.prepare_latents(model, call)["x"] == tuple(latents.shape[1:])


def test_without_a_size_it_is_upstreams_own(model, upstream):
    pixels = upstream.default_sample_size * upstream.vae_scale_factor
    assert qwen.prepare_latents(model, {}) == qwen.prepare_latents(model, {"height": pixels, "width": pixels})


def test_positions_of_thousands_of_tokens_are_exact_in_bf16(folder):
    """Whole numbers above 256 are rounded in bf16, and a peer's rotary embedding was."""
    rope = load_model(folder, device=torch.device("cpu"), precision="bf16", full=False).pipe.transformer.pos_embed
    _, text = rope([(1, 64, 64)], device=torch.device("cpu"), max_txt_seq_len=3000)
    place = 32 + torch.arange(3000, dtype=torch.float64)  # text begins where half of the picture ends
    rates = torch.cat([10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim) for dim in rope.axes_dim])
    expected = torch.polar(torch.ones(1, dtype=torch.float64), place[:, None] * rates)
    assert (text - expected).abs().max() < 1e-3
