from __future__ import annotations

import pytest
import torch

import omni_rl_ltx2 as ltx2
from omni_rl.errors import ConfigError, DataError
from omni_rl.model.loading import load_model
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract, assembled
from omni_rl_testing.parts import assemble
from omni_rl_testing.ranks import on_ranks
from omni_rl_testing.trajectories import replayed

CALL = {"height": 32, "width": 64, "num_frames": 5, "max_sequence_length": 64, "negative_prompt": "hello"}
PERTURBED = {**CALL, "spatio_temporal_guidance_blocks": [1]}
GIVEN = {name: value for name, value in PERTURBED.items() if name != "negative_prompt"}
"""As hooks are given it."""


class TestGuided(ModelContract):
    """With the pipeline's own guidance, in LTX-2.3, where all of its kinds count."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder_of_2_3):
        return folder_of_2_3

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return ltx2

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return PERTURBED


TestOnRanks = pytest.mark.full(on_ranks(TestGuided))


@pytest.mark.ci
class TestFirst(TestGuided):
    """LTX-2.0."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder


@pytest.mark.ci
class TestUnguided(TestGuided):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        off = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        return {**CALL, **off, **{f"audio_{name}": value for name, value in off.items()}, "negative_prompt": None}


def point(parts, rows=2):
    """Arguments of ``predict`` for rows at timesteps of their own."""
    with torch.no_grad():
        conditioning = parts.hooks.encode_prompt(
            model=parts.model, prompts=["a", "b"][:rows], negative_prompts=["hello"] * rows, tokens={}, call=GIVEN
        )
    shapes = ltx2.prepare_latents(parts.model, GIVEN)
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}
    t = torch.tensor([950.5, 311.0][:rows])
    return {"model": parts.model, "x": x, "t": t, "conditioning": conditioning}


def predict(given, **call):
    with torch.no_grad():
        return ltx2.predict(**given, call={**GIVEN, **call})


@pytest.fixture
def calls():
    """``calls(model)``: of the transformer from now on, each by its rows and what is done to attention."""
    handles = []

    def watch(model):
        seen = []

        def note(module, args, kwargs):
            blocks = kwargs.get("spatio_temporal_guidance_blocks") or []
            seen.append((len(kwargs["hidden_states"]), blocks, kwargs.get("isolate_modalities", False)))

        handles.append(model.pipe.transformer.register_forward_pre_hook(note, with_kwargs=True))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


NO_TEXT = {"guidance_scale": 1.0, "audio_guidance_scale": 1.0}
NO_STG = {"stg_scale": 0.0, "audio_stg_scale": 0.0}
NO_MODALITY = {"modality_scale": 1.0, "audio_modality_scale": 1.0}
NO_RESCALE = {"guidance_rescale": 0.0, "audio_guidance_rescale": 0.0}


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ({}, [(4, [], False), (2, [1], False), (2, [], True)]),
        (NO_TEXT, [(2, [], False), (2, [1], False), (2, [], True)]),
        ({**NO_STG, **NO_MODALITY}, [(4, [], False)]),
        ({**NO_STG, "modality_scale": 1.0}, [(4, [], False), (2, [], True)]),  # still on for the sound
    ],
)
def test_one_call_for_each_kind_of_guidance(parts_of_2_3, calls, off, expected):
    given, seen = point(parts_of_2_3), calls(parts_of_2_3.model)
    predict(given, **off)
    assert seen == expected


def test_where_attention_cannot_be_perturbed_nothing_is_computed_for_it(parts, calls):
    """LTX-2.0, where upstream's extra call answers what the prompt's own does."""
    given, seen = point(parts), calls(parts.model)
    with_stg, without = predict(given), predict(given, **NO_STG)
    assert seen == [(4, [], False), (2, [], True)] * 2
    assert all(torch.equal(v, without[name]) for name, v in with_stg.items())


@pytest.mark.parametrize(
    "call",
    [
        {"frame_rate": 12.0, "use_cross_timestep": False},
        pytest.param({**NO_STG, **NO_RESCALE, "guidance_scale": 0.5}, marks=pytest.mark.ci),
        pytest.param({**NO_TEXT, **NO_MODALITY, **NO_RESCALE}, marks=pytest.mark.ci),
        pytest.param({"audio_guidance_scale": None, "audio_stg_scale": 0.0}, marks=pytest.mark.ci),
    ],
    ids=lambda call: ",".join(call),
)
def test_rows_at_their_own_timesteps_are_single_calls_of_the_pipeline(parts_of_2_3, call):
    given, call = point(parts_of_2_3), {**GIVEN, **call}
    if "frame_rate" in call:  # which makes the sound longer
        shape = ltx2.prepare_latents(parts_of_2_3.model, call)["audio"]
        given["x"]["audio"] = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text = universal.encode_prompt(
            model=parts_of_2_3.model, prompts=["a", "b"], negative_prompts=["hello"] * 2, call=call
        )
        own = universal.predict(**{**given, "conditioning": text}, call=call)
    ours = predict(given, **call)
    for name, v in own.items():
        assert (ours[name] - v).abs().max() <= 1e-5 * v.abs().max()


def test_guidance_is_its_formula(parts_of_2_3):
    """In float64, on velocities instead of the data that upstream guides: rescaling aside it is the same."""
    given = point(parts_of_2_3)
    own = predict(given, **NO_TEXT, **NO_STG, **NO_MODALITY, **NO_RESCALE)
    parts = [predict(given, **{**NO_TEXT, **NO_STG, **NO_MODALITY, **NO_RESCALE, **on}) for on in (
        {"guidance_scale": 2.0, "audio_guidance_scale": 2.0},
        {"stg_scale": 1.0, "audio_stg_scale": 1.0},
        {"modality_scale": 2.0, "audio_modality_scale": 2.0},
    )]  # fmt: skip
    found = predict(given, **NO_RESCALE)
    for name, (text, stg, modality) in {"x": (3.0, 1.0, 3.0), "audio": (7.0, 1.0, 3.0)}.items():
        deltas = [part[name].double() - own[name] for part in parts]
        expected = own[name] + (text - 1) * deltas[0] + stg * deltas[1] + (modality - 1) * deltas[2]
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-4)
        assert all(delta.abs().max() > 1e-2 for delta in deltas)


# ------------------------------------------------------------------------------------------------ text, once


def test_the_connectors_run_once_for_each_text(parts_of_2_3):
    ran = []
    handle = parts_of_2_3.model.pipe.connectors.register_forward_pre_hook(lambda *_: ran.append(1))
    given = point(parts_of_2_3)
    predict(given)
    handle.remove()
    assert len(ran) == 2
    names = {f"{sign}{name}" for sign in ("", "negative_") for name in ("video_text", "audio_text", "text_mask")}
    assert given["conditioning"].keys() == names


def test_without_a_negative_prompt_guidance_is_away_from_nothing(parts):
    def encode(negative):
        with torch.no_grad():
            return ltx2.encode_prompt(parts.model, ["a"], negative, GIVEN)

    none, empty = encode(None), encode([""])
    assert all(torch.equal(value, empty[name]) for name, value in none.items())


def test_a_prompt_that_upstream_would_cut_is_refused(parts):
    with pytest.raises(DataError, match=r"the pipeline keeps 64 .*\n.*rollout.call.max_sequence_length"):
        ltx2.encode_prompt(parts.model, ["a", "7" * 99], None, GIVEN)
    with pytest.raises(DataError, match="keeps 64 of them: 'blurry, out of focus"):
        ltx2.encode_prompt(parts.model, ["a"], [ltx2.NEGATIVE_PROMPT], GIVEN)


# ------------------------------------------------------------------------------------------------ what upstream does


def test_what_it_does_not_know_is_the_pipelines_own(folder):
    """From the text to the media: every hook passes."""
    ours = assembled(folder, ltx2, {**PERTURBED, "noise_scale": 0.0}, ("a",))
    samples = ours.draw(ours.requests()[:1])
    assert {"audio_rate", "video"} <= set(samples[0].trajectory["media"].keys())
    text = samples[0].trajectory
    assert {"prompt_embeds", "negative_prompt_embeds"} <= set(text.keys())


@pytest.mark.parametrize("left_out", ["num_frames", "spatio_temporal_guidance_blocks"])
def test_what_the_checkpoint_chooses_or_the_pipeline_refuses_is_its_own(parts, left_out):
    given, call = point(parts), {**GIVEN, left_out: None}
    assert ltx2.predict(**given, call=call) is None
    assert ltx2.encode_prompt(parts.model, ["a"], None, call) is None
    assert ltx2.prepare_latents(parts.model, call) is None
    assert ltx2.set_timesteps(parts.model, 4, {}, call) is None
    assert ltx2.decode_latents(parts.model, given["x"], call) is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"height": 48}, r"height: 48 is not a multiple of 32\n  try 32"),
        ({"num_frames": 8}, r"num_frames: 8 is not one more than a multiple of 8\n  try 9"),
    ],
)
def test_what_upstream_would_round_is_an_error(parts, call, sentence, monkeypatch):
    monkeypatch.setattr(parts.model.pipe, "vae_temporal_compression_ratio", 8)
    with pytest.raises(ConfigError, match=f"rollout.call.{sentence}"):
        ltx2.prepare_latents(parts.model, {**GIVEN, "num_frames": 9, **call})


@pytest.mark.parametrize("call", [{}, {"num_frames": 1}, {"num_frames": 9, "frame_rate": 8.0, "height": 64}])
def test_shapes_are_upstreams(parts, call):
    call = {**GIVEN, **call}
    with torch.no_grad():
        text = universal.encode_prompt(model=parts.model, prompts=["a"], negative_prompts=["b"], call=call)
    own = universal.prepare_latents(model=parts.model, conditioning=text, call=call)
    assert ltx2.prepare_latents(parts.model, call) == own


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # RMSNorm under autocast
@pytest.mark.parametrize("full", [False, True], ids=["bf16", "masters"])
def test_in_bf16_replay_is_exact_and_both_streams_decode(folder_of_2_3, full):
    model = load_model(folder_of_2_3, device=torch.device("cpu"), precision="bf16", full=full, offload=True)
    lora = None if full else {"rank": 2}
    parts = assemble(model, plugin=ltx2, model={"lora": lora}, rollout={"call": PERTURBED, "group_size": 2})
    batch, (sample, *_) = parts.batch(), parts.draw(parts.requests()[:1])
    assert torch.equal(replayed(parts, batch[:2]), batch["log_probs"][:2])
    assert sample.trajectory["media", "video"].shape == (5, 32, 64, 3)
    assert sample.trajectory["media", "audio"].isfinite().all()
