"""Pictures as arguments: encoded once, replayed from what was kept, equal to the pipeline that is handed the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from model_cases import Euler, OneWindow
from model_cases import own_loop as drawn_without_noise
from PIL import Image

from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import NO_STEPS
from omni_rl.data.media_files import load
from omni_rl.errors import ModelError
from omni_rl.model.loading import load_model
from omni_rl.universal import media_conditioning
from omni_rl.universal.ask import latent_arguments
from omni_rl_testing.parts import Parts, assemble
from omni_rl_tiny import pipelines
from omni_rl_tiny.pipelines import pictures

TEXTS = ("a sign that says hello", "the world")
ARCHITECTURES = (
    "QwenImageEditPlusPipeline",
    "FluxKontextPipeline",
    "WanImageToVideoPipeline",
    "FluxFillPipeline",
    "LTXImageToVideoPipeline",
)
"""Several pictures; tokens beside the sample's; an encoder for pictures beside the autoencoder; a mask that no encoder
sees, and samples of an autoencoder's answers, fewer when latents are given; latents that hold a picture.
"""


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        pictures.small_pictures(patch)
        yield


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def assembly(folder: Path) -> Parts:
    """Two samples of two prompts, each with media of its own: two pictures where a model takes several."""
    model = load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)
    return assemble(
        model,
        algorithm=OneWindow(),
        prompts=TEXTS,
        media=pictures.media(model.architecture, folder, len(TEXTS)),
        model={"lora": {"rank": 2, "alpha": 2}},
        rollout={"call": pipelines.CALLS[model.architecture]},
    )


def test_noise_off_latents_are_those_of_the_pipeline_that_is_handed_the_files(folder: Path, assembly: Parts):
    plain = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    if not isinstance(plain.scheduler, FlowMatchEulerDiscreteScheduler):
        plain.scheduler = Euler(plain.scheduler)
    requests = [replace(r, window=NO_STEPS) for r in assembly.requests()[::2]]
    start, state = drawn_without_noise(assembly, requests)
    for row, request in enumerate(requests):
        call = {**pipelines.CALLS[type(plain).__name__], **load(request.media), "prompt": request.prompt}
        conditioning = {name: value[row : row + 1] for name, value in state.conditioning.items()}
        given, final = (
            latent_arguments(assembly.model, {"x": x["x"][row : row + 1].clone()}, conditioning, request.call)
            for x in (start, state.x)
        )
        steps = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(0)}
        own = plain(**call, **given, **steps, output_type="latent", return_dict=False)[0]
        assert float((final["latents"] - own).abs().max()) <= 2e-6 * float(own.abs().max())


def test_replay_is_exact_and_encodes_nothing(assembly: Parts):
    batch = trajectory.collate(assembly.draw(assembly.requests()))
    before = dict(assembly.model.counts)
    for step in range(batch["timesteps"].shape[1]):
        with torch.no_grad():
            log_prob = assembly.backend.policy.evaluate(batch, [step])[0].log_prob
        assert torch.equal(log_prob, batch["log_probs"][:, step])
    assert assembly.model.counts == before


def test_each_prompts_media_are_encoded_once_whatever_the_number_of_samples(assembly: Parts):
    counts = []
    assembly.draw(assembly.requests(iteration=3))  # finds out, by asking twice, in what form embeddings come
    for members in (1, 2):
        before = dict(assembly.model.counts)
        assembly.draw([r for r in assembly.requests(iteration=members) if r.sample_id % 2 < members])
        counts.append({name: count - before[name] for name, count in assembly.model.counts.items()})
    assert counts[0] == counts[1]
    assert any(counts[0].values())


def test_the_picture_changes_the_sample(assembly: Parts):
    first = assembly.requests()[0]
    other = replace(first, media=assembly.requests()[2].media)
    (a,), (b,) = assembly.draw([first]), assembly.draw([other])
    assert not torch.allclose(a.trajectory["latents", "x", "final"], b.trajectory["latents", "x", "final"], atol=1e-3)


def test_a_trainer_that_has_encoded_nothing_replays_the_same(assembly: Parts):
    """The form of encoders' answers is found with blank media where another process has encoded the real ones."""
    batch = trajectory.collate(assembly.draw(assembly.requests()))
    assembly.model.caches.clear()
    with torch.no_grad():
        log_prob = assembly.backend.policy.evaluate(batch, [0])[0].log_prob
    assert torch.allclose(log_prob, batch["log_probs"][:, 0], atol=1e-6)


def test_what_an_encoder_answers_about_several_pictures_at_once_is_kept_whole(tmp_path: Path):
    folder = pipelines.build("WanImageToVideoPipeline-last-frame", tmp_path)
    names = [str(folder / pictures.picture(folder / f"{i}.png", (32, 32), i)) for i in range(3)]
    both = assemble(
        load_model(folder, device=torch.device("cpu"), precision="fp32", full=False),
        algorithm=OneWindow(),
        prompts=TEXTS,
        media=[{"image": names[0], "last_image": last} for last in names[1:]],
        rollout={"call": pipelines.CALLS["WanImageToVideoPipeline"]},
    )
    batch = trajectory.collate(both.draw(both.requests()))
    embeds = batch["condition", "encoded_encode_image_0_0"]  # (N, pictures, tokens, D)
    assert embeds.shape == (4, 2, 5, 16)
    assert torch.equal(embeds[0, 0], embeds[2, 0])
    assert not torch.equal(embeds[0, 1], embeds[2, 1])
    with torch.no_grad():
        log_prob = both.backend.policy.evaluate(batch, [0])[0].log_prob
    assert torch.equal(log_prob, batch["log_probs"][:, 0])


def test_media_of_different_sizes_in_one_batch_are_refused():
    sizes = torch.stack(
        [media_conditioning.sizes({"image": Image.new("RGB", (w, 8))})["size_of_image"] for w in (8, 16)]
    )
    with pytest.raises(ModelError, match="different sizes for image="):
        media_conditioning.blank({"size_of_image": sizes})


def test_blank_media_have_the_sizes_of_the_real_ones():
    media = {"image": [Image.new("RGB", (8, 4)), Image.new("RGB", (2, 6))], "mask": Image.new("RGB", (3, 5))}
    kept = {name: size[None] for name, size in media_conditioning.sizes(media).items()}
    blank = media_conditioning.blank(kept)
    assert [picture.size for picture in blank["image"]] == [(8, 4), (2, 6)]
    assert blank["mask"].size == (3, 5)


def _kept(*pixels: int) -> dict[str, torch.Tensor]:
    """A mask of one colour for each row."""
    rows = [{"mask": Image.new("RGB", (3, 5), (colour,) * 3)} for colour in pixels]
    return {
        name: torch.stack([{**media_conditioning.sizes(row), **media_conditioning.pixels(row)}[name] for row in rows])
        for name in ("size_of_mask", "pixels_of_mask")
    }


def test_pixels_that_are_kept_stand_in_the_place_of_blank_media():
    (mask,) = media_conditioning.in_place(_kept(7, 7)).values()
    assert mask.size == (3, 5)
    assert mask.getcolors() == [(15, (7, 7, 7))]
    clip = [Image.new("RGB", (2, 4), (i, i, i)) for i in range(3)]
    kept = {**media_conditioning.sizes({"video": clip}), **media_conditioning.pixels({"video": clip})}
    frames = media_conditioning.in_place({name: value[None] for name, value in kept.items()})["video"]
    assert [frame.getpixel((0, 0)) for frame in frames] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_rows_of_different_sizes_go_in_calls_of_their_own():
    sizes = torch.tensor([[8, 4], [4, 8], [8, 4]])
    assert [rows.tolist() for rows in media_conditioning.alike({"size_of_image": sizes}, 3)] == [[1], [0, 2]]
    both = {"size_of_image": sizes, "pixels_of_mask": torch.tensor([1, 1, 2])[:, None].to(torch.uint8)}
    assert [rows.tolist() for rows in media_conditioning.alike(both, 3)] == [[1], [0], [2]]


def test_rows_of_different_pixels_are_asked_about_apart():
    assert [rows.tolist() for rows in media_conditioning.alike(_kept(9, 0, 9, 9), 4)] == [[1], [0, 2, 3]]
    assert [rows.tolist() for rows in media_conditioning.alike({"size_of_mask": torch.ones(2, 2)}, 2)] == [[0, 1]]
    with pytest.raises(ModelError, match="different pixels for mask="):
        media_conditioning.in_place(_kept(9, 0))
