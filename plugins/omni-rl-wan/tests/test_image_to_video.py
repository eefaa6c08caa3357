from __future__ import annotations

import pytest
import torch
from PIL import Image

from omni_rl.errors import ConfigError, DataError
from omni_rl.model.encoding import encode
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract, assembled
from omni_rl_testing.ranks import on_ranks
from omni_rl_wan import image_to_video

SIZE = {"height": 16, "width": 32, "num_frames": 9}
CALL = {**SIZE, "negative_prompt": "hello", "guidance_scale": 5.0}


class TestWan21(ModelContract):
    """The first frame as channels and through CLIP, with guidance."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder("WanImageToVideoPipeline")

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return image_to_video

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return CALL

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": picture(i, (24, 36))} for i in range(3)]


TestOnRanks = pytest.mark.full(on_ranks(TestWan21))


@pytest.mark.ci
class TestTwoExperts(TestWan21):
    """Wan 2.2 with a last frame too; the contract's timesteps lie on both sides of the boundary."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder("WanImageToVideoPipeline-two-experts")

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "max_sequence_length": 64, "guidance_scale_2": 3.0}

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": picture(i, (24, 36)), "last_image": picture(3 + i, (32, 16))} for i in range(3)]


@pytest.mark.ci
class TestFirstAndLast(TestWan21):
    """Wan 2.1 FLF2V: both frames through CLIP."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder("WanImageToVideoPipeline-last-frame")

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": picture(i, (24, 36)), "last_image": picture(3 + i, (32, 16))} for i in range(3)]


@pytest.mark.ci
class TestByToken(TestWan21):
    """Wan 2.2 5B: the first frame has a timestep of its own and is not sampled."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tiny_folder):
        return tiny_folder("WanImageToVideoPipeline-by-token")

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**CALL, "max_sequence_length": 64}

    def test_the_first_frame_is_not_sampled(self, probe):
        latents = probe.batch["latents", "x", "all"]  # (N, T + 1, C, F, h, w)
        assert torch.equal(latents[:, 0, :, 0], latents[:, -1, :, 0])
        assert not torch.equal(latents[:, 0, :, 1], latents[:, -1, :, 1])
        assert probe.batch["mask", "x"].flatten(1).tolist() == [[False, True, True]] * len(probe.batch)


def assembled_from(folder, media, **call):
    return assembled(folder, image_to_video, {**CALL, **call}, ("a", "b"), media)


def point(parts, **call):
    """Arguments of ``predict`` for a sample of each prompt, at timesteps on both sides of the boundary."""
    requests = parts.requests()[::2]
    with torch.no_grad():
        text, _ = encode(parts.model, requests)
        media = universal.prepare_condition(model=parts.model, requests=requests)
    x = torch.randn(2, 4, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    return {
        "model": parts.model,
        "x": {"x": x},
        "t": torch.tensor([950.5, 311.0]),
        "conditioning": text | media,
        "call": {**requests[0].call, **call},
    }


@pytest.fixture(scope="module")
def clip(tiny_folder, picture):
    """Wan 2.1."""
    media = [{"image": picture(i, (24, 36))} for i in range(2)]
    return assembled_from(tiny_folder("WanImageToVideoPipeline"), media)


@pytest.fixture(scope="module")
def experts(tiny_folder, picture):
    """Wan 2.2, with rows whose pictures differ in size."""
    media = [{"image": picture(0, (24, 36))}, {"image": picture(1, (32, 16))}]
    return assembled_from(tiny_folder("WanImageToVideoPipeline-two-experts"), media, max_sequence_length=64)


@pytest.fixture(scope="module")
def by_token(tiny_folder, picture):
    """Wan 2.2 5B."""
    media = [{"image": picture(i, (24, 36))} for i in range(2)]
    return assembled_from(tiny_folder("WanImageToVideoPipeline-by-token"), media, max_sequence_length=64)


@pytest.mark.parametrize("case", ["clip", "experts", "by_token"])
def test_rows_on_both_sides_are_single_calls_of_the_pipeline(request, case):
    given = point(request.getfixturevalue(case))
    with torch.no_grad():
        ours, own = (predict(**given)["x"] for predict in (image_to_video.predict, universal.predict))
    assert (ours - own).abs().max() <= 1e-5 * own.abs().max()


def test_both_branches_in_one_call_of_each_expert(experts, rows):
    given, seen = point(experts), rows(experts.model)
    with torch.no_grad():
        image_to_video.predict(**given)
    assert seen == [("transformer", 2), ("transformer_2", 2)]


@pytest.mark.parametrize("encoder", ["encode_image", "vae"])
def test_what_each_encoder_saw_counts(clip, encoder):
    given = point(clip)
    (name,) = [n for n in given["conditioning"] if n.startswith(f"encoded_{encoder}_")]
    swapped = {**given["conditioning"], name: given["conditioning"][name].flip(0)}
    with torch.no_grad():
        whole, other = (
            image_to_video.predict(**{**given, "conditioning": c})["x"] for c in (given["conditioning"], swapped)
        )
    assert (whole - other).abs().max() > 1e-3 * whole.abs().max()


def test_the_mask_is_upstreams(experts, picture, monkeypatch):
    """Of a first frame, and of a last one too."""
    pipe, pixels = experts.model.pipe, torch.zeros(1, 3, 16, 32)
    for last in (None, pixels):
        latents, own = pipe.prepare_latents(
            pixels, 1, 4, 16, 32, 9, torch.float32, torch.device("cpu"), last_image=last
        )
        assert torch.equal(image_to_video._mask(latents, 4, last=last is not None), own[:, :4])


def test_rows_whose_pictures_differ_in_size_are_drawn_apart(experts):
    """In one submission, as alone."""
    requests = experts.requests()[::2]
    together = experts.draw(requests)
    alone = [sample for request in requests for sample in experts.draw([request])]
    for one, other in zip(together, alone, strict=True):
        a, b = (s.trajectory["latents", "x", "final"] for s in (one, other))
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_without_a_first_frame_there_is_nothing_to_continue(experts):
    given = point(experts)
    text = {n: v for n, v in given["conditioning"].items() if n.endswith("prompt_embeds")}
    with pytest.raises(DataError, match=r"data\.media"):
        image_to_video.predict(**{**given, "conditioning": text})


def test_a_last_frame_that_clip_has_no_place_for_is_refused(tiny_folder, picture):
    media = [{"image": picture(i, (24, 36)), "last_image": picture(i + 2, (24, 36))} for i in range(2)]
    parts = assembled_from(tiny_folder("WanImageToVideoPipeline"), media)
    with pytest.raises(DataError, match="this Wan takes no last_image"):
        parts.draw(parts.requests()[:1])


def test_where_text_and_image_embeddings_meet_is_fixed(clip, experts):
    def embeds(parts, tokens):
        call = {**CALL, "max_sequence_length": tokens, "image": Image.new("RGB", (32, 16))}
        given = {"prompts": ["a word"], "negative_prompts": ["b"], "tokens": {}, "call": call}
        with torch.no_grad():
            return parts.hooks.encode_prompt(model=parts.model, **given)["prompt_embeds"]

    with pytest.raises(ConfigError, match=r"max_sequence_length: with image embeddings Wan takes 512 tokens, not 64"):
        embeds(clip, 64)
    assert embeds(clip, 512).shape == (1, 512, 32)
    assert embeds(experts, 64).shape == (1, 64, 32)
    with pytest.raises(DataError, match="the pipeline keeps 4 of them"):
        embeds(experts, 4)


def test_what_it_does_not_know_is_the_pipelines_own(experts):
    given = point(experts, attention_kwargs={"scale": 0.5})
    assert image_to_video.predict(**given) is None


@pytest.mark.parametrize("case", ["clip", "experts", "by_token"])
def test_shapes_are_upstreams(request, case):
    given = point(request.getfixturevalue(case))
    row = {n: v[:1] for n, v in given["conditioning"].items()}
    own = universal.prepare_latents(model=given["model"], conditioning=row, call=given["call"])
    assert image_to_video.prepare_latents(given["model"], given["call"]) == own
