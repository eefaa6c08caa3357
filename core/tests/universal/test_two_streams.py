"""Picture and sound stepped together: shapes, copies of the scheduler, masks, and one log-prob over both."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_two_streams
from model_cases import OneWindow, own_loop, still

from omni_rl import hookimpl
from omni_rl.contracts import trajectory
from omni_rl.errors import ModelError
from omni_rl.model.encoding import encode_ahead
from omni_rl.model.loading import from_pipe, load_model
from omni_rl_testing.parts import PROMPTS, Parts, assemble
from omni_rl_tiny.pipelines.text_encoders import WIDTH

PICTURE, SOUND = (4, 4, 8), (2, 6)
CALLS = {"guided": toy_two_streams.CALL, "unguided": {"height": 8, "width": 16, "guidance_scale": 1.0}}


def assembled(call=toy_two_streams.CALL, plugin: object = None, **arguments) -> Parts:
    model = from_pipe(toy_two_streams.pipeline(), path=Path("toy"), device=torch.device("cpu"), **arguments)
    sections = {"model": {"lora": {"rank": 2, "alpha": 2}}, "rollout": {"call": dict(call)}}
    assembly = assemble(model, plugin=plugin, algorithm=OneWindow(), **sections)
    assembly.nudge()
    return assembly


def keeping_the_first_row() -> types.ModuleType:
    """A model plugin that gives the picture's first row, and lets the last tone of the sound count for nothing."""
    plugin = types.ModuleType("keeping_the_first_row")

    @hookimpl
    def prepare_condition(requests):
        picture = torch.ones(len(requests), 1, PICTURE[1], 1)
        picture[:, :, 0] = 0
        sound = torch.arange(SOUND[1]).expand(len(requests), 1, -1) < SOUND[1] - 1
        return {"mask/x": picture, "mask/audio": sound}

    plugin.prepare_condition = prepare_condition
    return plugin


@pytest.fixture(scope="module", params=list(CALLS))
def assembly(request) -> Parts:
    return assembled(CALLS[request.param])


def test_streams_are_found_with_their_shapes(assembly):
    _, state = own_loop(assembly, still(assembly))
    shapes = assembly.hooks.prepare_latents(
        model=assembly.model, conditioning=state.conditioning, call=state.requests[0].call
    )
    assert shapes == {"x": PICTURE, "audio": SOUND}
    assert list(shapes) == ["x", "audio"]


def test_noise_off_latents_and_media_are_the_pipelines_own():
    """With its own scheduler, Euler, and the copy that it makes of it."""
    model = from_pipe(toy_two_streams.pipeline(), path=Path("toy"), device=torch.device("cpu"))
    ours = assemble(model, algorithm=OneWindow(), rollout={"call": dict(toy_two_streams.CALL)})
    start, state = own_loop(ours, still(ours))
    plain = toy_two_streams.pipeline()
    plain.set_progress_bar_config(disable=True)
    arguments = {**toy_two_streams.CALL, "prompt": list(PROMPTS), "negative_prompt": ["hello"] * 3}
    given = {"latents": start["x"], "audio_latents": start["audio"]}
    own = plain(**arguments, **given, output_type="latent")
    for name, latents in zip(("x", "audio"), own, strict=True):  # its guidance divides by sigma: not to the bit
        torch.testing.assert_close(state.x[name], latents, rtol=0, atol=2e-6 * float(latents.abs().max()))
    pictures, sounds = plain(**arguments, **given)
    for row, sample in enumerate(ours.hooks.post_decode(model=model, state=state)):
        media = sample.trajectory["media"]
        assert media["image"].shape == (8, 16, 3)
        levels = (pictures[row].movedim(0, -1) * 255).round()
        assert (media["image"].float() - levels).abs().max() <= 1
        torch.testing.assert_close(media["audio"], sounds[row], rtol=0, atol=1e-5)


def test_log_probs_replay_to_the_bit(assembly):
    batch = assembly.batch()
    assert batch["latents", "x", "all"].shape == (6, 4, *PICTURE)
    assert batch["latents", "audio", "all"].shape == (6, 4, *SOUND)
    for step in range(batch["timesteps"].shape[1]):
        log_prob = assembly.backend.policy.evaluate(batch, [step])[0].log_prob.detach()
        assert torch.equal(log_prob, batch["log_probs"][:, step])


def joint_density(assembly, batch, step, masks) -> torch.Tensor:
    """(B,) by torch.distributions in float64: mean log density over the elements of both streams that count."""
    transitions = assembly.backend.policy.evaluate(batch, [step])[0].transitions
    terms = []
    for name, transition in transitions.items():
        normal = torch.distributions.Normal(transition.mean.detach().double(), transition.std.double())
        density = normal.log_prob(batch["latents", name, "all"][:, step + 1].double())
        counts = masks[name].expand_as(density) if name in masks else torch.ones_like(density, dtype=torch.bool)
        terms.append(density[counts].view(len(batch), -1))
    return torch.cat(terms, 1).mean(1)


def test_the_log_prob_is_the_joint_density(assembly):
    batch = assembly.batch()
    for step in range(batch["timesteps"].shape[1]):
        expected = joint_density(assembly, batch, step, {})
        torch.testing.assert_close(batch["log_probs"][:, step].double(), expected, rtol=1e-5, atol=1e-6)
    transitions = assembly.backend.policy.evaluate(batch, [0])[0].transitions
    sizes = {n: t.mean[0].numel() for n, t in transitions.items()}
    assert sizes == {"x": 128, "audio": 12}


def test_noise_differs_between_streams_and_steps(assembly):
    batch = assembly.batch()
    start = {n: batch["latents", n, "all"][:, 0].flatten(1) for n in ("x", "audio")}
    assert not torch.allclose(start["x"][:, :12], start["audio"])


def test_any_timesteps_in_one_batch_equal_single_calls(assembly):
    start, state = own_loop(assembly, still(assembly))
    t = torch.tensor([937.25, 12.5, 500.0])
    call = state.requests[0].call

    def predict(part):
        return assembly.hooks.predict(
            model=assembly.model,
            x={n: v[part] for n, v in start.items()},
            t=t[part],
            conditioning={n: v[part] for n, v in state.conditioning.items()},
            call=call,
            step=None,
        )

    with torch.no_grad():
        together, alone = predict([0, 1, 2]), [predict([i]) for i in range(3)]
    for name, found in together.items():
        expected = torch.cat([a[name] for a in alone])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_gradient_reaches_every_tensor_from_either_stream(assembly):
    batch = assembly.batch()
    policy = assembly.backend.policy
    inputs = assembly.hooks.prepare_model_inputs(policy=policy, batch=batch, steps=[0])
    silent = {}
    for stream in ("x", "audio"):
        policy.predict(**inputs)[stream].square().sum().backward()
        silent[stream] = {n for n, p in policy.parameters.items() if p.grad is None or not p.grad.any()}
        for parameter in policy.parameters.values():
            parameter.grad = None
    assert {n.split(".")[1] for n in silent["x"]} == {"sound_out"}
    assert {n.split(".")[1] for n in silent["audio"]} == {"picture_out"}


def test_embeddings_of_batches_of_different_width_are_padded_with_their_masks():
    """Its mask is not called as Qwen-Image's is."""
    assembly = assembled()
    assembly.config.rollout.batch_size = 1
    requests = assembly.requests()
    whole = assembly.draw(requests)
    widths = {s.trajectory["condition", "prompt_attention_mask"].shape for s in whole}
    assert len(widths) == 1
    counted = {s.request.prompt: int(s.trajectory["condition", "prompt_attention_mask"].sum()) for s in whole}
    assert counted == {p: len(p.replace(" ", "")) + 2 for p in PROMPTS}  # a token for a letter, and both ends
    for sample, one in zip(whole, (assembly.draw([r])[0] for r in requests), strict=True):
        for name in ("x", "audio"):
            a, b = (s.trajectory["latents", name, "final"] for s in (sample, one))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_prompts_are_encoded_again_for_another_call():
    """A validation without guidance must not find the embeddings of a rollout with it, nor the other way round."""
    assembly = assembled()
    guided = still(assembly)
    plain = [replace(r, call={**r.call, "guidance_scale": 1.0}) for r in guided]
    for requests, negative in ((guided, True), (plain, False), (guided, True)):
        _, state = own_loop(assembly, requests)
        assert ("negative_prompt_embeds" in state.conditioning) == negative
        counts = dict(assembly.model.counts)
        own_loop(assembly, requests)
        assert assembly.model.counts == counts, "a second time nothing is encoded"


def test_widths_that_no_mask_explains_are_refused():
    plugin = types.ModuleType("as_wide_as_its_text")

    @hookimpl
    def encode_prompt(prompts):
        return {"prompt_embeds": torch.ones(len(prompts), len(prompts[0]), WIDTH)}

    plugin.encode_prompt = encode_prompt
    assembly = assembled(CALLS["unguided"], plugin)
    with pytest.raises(ModelError, match=r"prompt_embeds has widths \[1, 22, 42\], and no mask says what is padding"):
        encode_ahead(assembly.model, assembly.requests(), batch_size=1)


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.fixture(scope="module")
def masked() -> tuple[Parts, object]:
    assembly = assembled(plugin=keeping_the_first_row())
    return assembly, assembly.batch()


def test_frozen_elements_stay_bit_equal(masked):
    _, batch = masked
    picture, sound = batch["latents", "x", "all"], batch["latents", "audio", "all"]
    assert torch.equal(picture[:, :, :, 0], picture[:, :1, :, 0].expand_as(picture[:, :, :, 0]))
    assert torch.equal(sound[..., -1], sound[:, :1, ..., -1].expand_as(sound[..., -1]))
    assert torch.equal(batch["latents", "x", "final"][:, :, 0], picture[:, 0, :, 0])
    assert not torch.equal(picture[:, 0, :, 1:], picture[:, 1, :, 1:])


def test_masks_travel_in_the_trajectory_and_not_in_the_conditioning(masked):
    _, batch = masked
    masks = trajectory.masks_of(batch)
    assert {n: (m.dtype, m.shape) for n, m in masks.items()} == {
        "x": (torch.bool, (6, 1, 4, 1)),
        "audio": (torch.bool, (6, 1, 6)),
    }
    assert not any(name.startswith("mask") for name in trajectory.conditioning_of(batch))


def test_frozen_elements_do_not_count(masked):
    assembly, batch = masked
    masks = trajectory.masks_of(batch)
    policy = assembly.backend.policy
    for step in range(batch["timesteps"].shape[1]):
        assert torch.equal(policy.evaluate(batch, [step])[0].log_prob.detach(), batch["log_probs"][:, step])
        expected = joint_density(assembly, batch, step, masks)
        torch.testing.assert_close(batch["log_probs"][:, step].double(), expected, rtol=1e-5, atol=1e-6)
    changed = batch.clone()
    changed["latents", "x", "all"][:, 1, :, 0] += 7.0
    changed["latents", "audio", "all"][:, 1, :, -1] -= 7.0
    with torch.no_grad():
        assert torch.equal(policy.evaluate(changed, [0])[0].log_prob, policy.evaluate(batch, [0])[0].log_prob)


def test_the_loop_with_a_mask_is_the_pipelines_own_with_frozen_elements():
    plugin = keeping_the_first_row()
    model = from_pipe(toy_two_streams.pipeline(), path=Path("toy"), device=torch.device("cpu"))
    call = {**toy_two_streams.CALL, "keep_first_row": True}
    ours = assemble(model, plugin=plugin, algorithm=OneWindow(), rollout={"call": call})
    start, state = own_loop(ours, still(ours))
    plain = toy_two_streams.pipeline()
    arguments = {**call, "prompt": list(PROMPTS), "negative_prompt": ["hello"] * 3, "output_type": "latent"}
    picture, _ = plain(**arguments, latents=start["x"], audio_latents=start["audio"])
    assert torch.equal(picture[:, :, 0], start["x"][:, :, 0])
    assert torch.equal(state.x["x"][:, :, 0], start["x"][:, :, 0])


# ------------------------------------------------------------------------------------------------- from a folder


def test_it_loads_from_a_folder_and_computes_the_same(two_streams):
    loaded = load_model(two_streams, device=torch.device("cpu"), precision="fp32", full=False)
    assert loaded.architecture == toy_two_streams.ARCHITECTURE
    sections = {"model": {"lora": {"rank": 2, "alpha": 2}}, "rollout": {"call": dict(toy_two_streams.CALL)}}
    from_folder = assemble(loaded, algorithm=OneWindow(), **sections)
    from_folder.nudge()
    a, b = (x.batch() for x in (from_folder, assembled()))
    assert torch.equal(a["log_probs"], b["log_probs"])


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "masters"])
def test_bf16_decodes_both_streams(autocast):
    pipe = toy_two_streams.pipeline()
    for name in ("text_encoder", "vae", *([] if autocast else ["transformer"])):
        getattr(pipe, name).to(torch.bfloat16)
    model = from_pipe(pipe, path=Path("toy"), device=torch.device("cpu"), dtype=torch.bfloat16, autocast=autocast)
    lora = None if autocast else {"rank": 2}
    sections = {"model": {"lora": lora}, "rollout": {"call": dict(toy_two_streams.CALL)}}
    assembly = assemble(model, algorithm=OneWindow(), **sections)
    batch, samples = assembly.batch(), assembly.draw(assembly.requests())
    assert torch.equal(assembly.backend.policy.evaluate(batch, [1])[0].log_prob.detach(), batch["log_probs"][:, 1])
    assert samples[0].trajectory["media", "audio"].dtype == torch.float32
