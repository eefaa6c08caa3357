"""What some pipelines do otherwise than most, each on the toy with picture and sound: draws that count for nothing,
latents packed after they are given, prompts that cannot share a call, time running the other way.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_two_streams
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from model_cases import OneWindow, own_loop, still

from omni_rl.contracts.types import SigmaTable
from omni_rl.errors import ModelError
from omni_rl.model.loading import from_pipe
from omni_rl.universal import capture, scheduler_stand_ins
from omni_rl.universal.batch_probes import takes_one_row
from omni_rl.universal.prompt_outputs import as_taken, named_outputs
from omni_rl_testing.parts import PROMPTS, Parts, assemble

Toy = toy_two_streams.ToyTwoStreamsPipeline
CALL = toy_two_streams.CALL


class DrawsForNothing(Toy):
    """As LTX-2 does: noise times its scale, which is 0, is added to the latents that it is given."""

    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is None else 0.0 * randn_tensor(shape, generator=generator) + 1.0 * latents


class Packs(Toy):
    """As FLUX.2 does: latents are drawn, and taken, in another form than the one that is stepped."""

    def _latents(self, shape, given, generator):
        if len(shape) == 3:
            return super()._latents(shape, given, generator)
        return super()._latents((*shape[:2], shape[3], shape[2]), given, generator).transpose(2, 3)


SCALE, SHIFT = torch.linspace(0.2, 3.0, 6), torch.linspace(-4.0, 5.0, 6)


class Normalises(Toy):
    """As LTX-2 does: sound that it is given, and that only, by an autoencoder's statistics."""

    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is None or len(shape) > 3 else (latents - SHIFT) / SCALE


class MixesRows(Toy):
    """Whatever prompts share a call influence each other."""

    def _data(self, streams, schedulers, i, t, embeds, mask):
        average = (embeds[..., 0] * mask).sum() / mask.sum()
        return [x + average for x in super()._data(streams, schedulers, i, t, embeds, mask)]


class TakesOneRow(Toy):
    """As PRX does with guidance: several prompts are an error deep inside."""

    def _data(self, streams, schedulers, i, t, embeds, mask):
        return super()._data(streams, schedulers, i, t, embeds.view(1, -1, embeds.shape[-1]), mask)


class TakesOneText(Toy):
    """As WAN-VACE does: a list of prompts is refused, even a list of one."""

    def encode_prompt(self, prompt, *args, **kwargs):
        if isinstance(prompt, list):
            raise ValueError("a list of prompts is not yet supported")
        return super().encode_prompt([prompt], *args, **kwargs)


class WithoutMasks(Toy):
    """As CogView4 does: prompts are padded to the longest of a call, and the padding is read as text."""

    def encode_prompt(self, *args, **kwargs):
        prompt_embeds, _, negative_prompt_embeds, _ = super().encode_prompt(*args, **kwargs)
        return prompt_embeds, None, negative_prompt_embeds, None

    def _data(self, streams, schedulers, i, t, embeds, mask):
        return super()._data(streams, schedulers, i, t, embeds, torch.ones_like(embeds[..., 0]))


class SeesPadding(Toy):
    """As Qwen-Image 2.1 does: masked tokens still move the others, and where no token is masked there is no mask."""

    def encode_prompt(self, *args, **kwargs):
        prompt_embeds, mask, negative_prompt_embeds, negative_mask = super().encode_prompt(*args, **kwargs)
        masks = [None if m is None or m.all() else m for m in (mask, negative_mask)]
        return prompt_embeds, masks[0], negative_prompt_embeds, masks[1]

    def _data(self, streams, schedulers, i, t, embeds, mask):
        mask = torch.ones_like(embeds[..., 0]) if mask is None else mask
        return [x + embeds.shape[1] / 100 for x in super()._data(streams, schedulers, i, t, embeds, mask)]


class InParts(Toy):
    """As Z-Image Omni does: a prompt's embeddings are a list of parts."""

    def encode_prompt(self, prompt, negative_prompt, guided, prompt_embeds=None, *args):
        if prompt_embeds is not None:
            return prompt_embeds, None, args[1], None
        encoded = super().encode_prompt(prompt, negative_prompt, guided)
        positive, negative = ([e[m.bool()] for e, m in zip(*pair, strict=True)] for pair in (encoded[:2], encoded[2:]))
        return [[e[:1], e[1:]] for e in positive], None, [[e[:1], e[1:]] for e in negative], None

    def _data(self, streams, schedulers, i, t, embeds, mask):
        assert {len(parts) for parts in embeds} == {2}
        rows = [torch.cat([2 * first, rest]) for first, rest in embeds]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], True)
        padded = torch.nn.utils.rnn.pad_sequence(rows, True)
        return super()._data(streams, schedulers, i, t, padded, mask)


class InBundles(Toy):
    """As Bria FIBO 2 does: several embeddings of each token, (B, N, L, D), with one mask (B, L)."""

    def encode_prompt(self, prompt, negative_prompt, guided, prompt_embeds=None, mask=None, *negative):
        if prompt_embeds is not None:
            return prompt_embeds, mask, *negative
        embeds, mask, negative_embeds, negative_mask = super().encode_prompt(prompt, negative_prompt, guided)
        return *(torch.stack([embeds, -2 * embeds], 1), mask), *(torch.stack([negative_embeds] * 2, 1), negative_mask)

    def _data(self, streams, schedulers, i, t, embeds, mask):
        return super()._data(streams, schedulers, i, t, embeds[:, 0] + embeds[:, 1], mask)


class TakesNoSilence(Toy):
    """As Cosmos 3 does: its loop fails with what silent denoisers answer."""

    def _data(self, streams, schedulers, i, t, embeds, mask):
        found = super()._data(streams, schedulers, i, t, embeds, mask)
        if all(torch.equal(x, start) for x, start in zip(found, streams, strict=True)):
            raise ValueError("not enough values to unpack")
        return found


ODD = [
    TakesNoSilence,
    DrawsForNothing,
    Packs,
    Normalises,
    MixesRows,
    TakesOneRow,
    WithoutMasks,
    SeesPadding,
    InParts,
    InBundles,
]


def pipeline(cls: type[Toy]) -> Toy:
    pipe = cls(**toy_two_streams.pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assembled(cls: type[Toy]) -> Parts:
    model = from_pipe(pipeline(cls), path=Path("toy"), device=torch.device("cpu"))
    return assemble(model, algorithm=OneWindow(), model={"lora": None}, rollout={"call": dict(CALL)})


@pytest.mark.parametrize("cls", ODD)
def test_noise_off_latents_are_those_of_a_call_for_each_prompt(cls):
    assembly = assembled(cls)
    start, state = own_loop(assembly, still(assembly))
    for row, prompt in enumerate(PROMPTS):
        own = pipeline(cls)
        given = {"latents": start["x"][row : row + 1], "audio_latents": start["audio"][row : row + 1]}
        if cls is Packs:
            given["latents"] = given["latents"].transpose(2, 3)
        if cls is Normalises:
            given["audio_latents"] = given["audio_latents"] * SCALE + SHIFT
        texts = {"prompt": [prompt], "negative_prompt": [CALL["negative_prompt"]]}
        picture, sound = own(**{**CALL, **texts}, **given, output_type="latent")
        torch.testing.assert_close(state.x["x"][row], picture[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(state.x["audio"][row], sound[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", ODD)
def test_log_probs_replay_and_samples_decode(cls):
    assembly = assembled(cls)
    samples = assembly.draw(assembly.requests())
    assert {sample.error for sample in samples} == {None}
    batch, policy = assembly.batch(), assembly.backend.policy
    for step in range(batch["timesteps"].shape[1]):
        assert torch.equal(policy.evaluate(batch, [step])[0].log_prob.detach(), batch["log_probs"][:, step])


@pytest.mark.parametrize(("cls", "single"), [(MixesRows, True), (TakesOneRow, True), (Packs, False), (Toy, False)])
def test_pipelines_that_cannot_take_several_prompts_are_found(cls, single):
    assembly = assembled(cls)
    own_loop(assembly, still(assembly))
    call = assembly.requests()[0].call
    assert takes_one_row(assembly.model, call) == single


def test_a_pipeline_that_refuses_a_list_of_one_text_is_given_the_text():
    call = {name: value for name, value in CALL.items() if name != "negative_prompt"}
    one, two = ({"prompt": texts, "negative_prompt": texts} for texts in (["a"], ["a", "the world"]))
    own = pipeline(Toy)
    picky = TakesOneText(**own.components)
    usual, model = (from_pipe(pipe, path=Path("toy"), device=torch.device("cpu")) for pipe in (own, picky))
    assert as_taken(model, one) == one
    expected = named_outputs(usual, one, call)
    for name, value in named_outputs(model, one, call).items():
        assert torch.equal(value, expected[name])
    assert as_taken(model, one) == {"prompt": "a", "negative_prompt": "a"}
    assert as_taken(usual, one) == one
    with pytest.raises(ModelError, match="a list of prompts is not yet supported"):
        named_outputs(model, two, call)


@pytest.mark.parametrize("cls", [WithoutMasks, SeesPadding])
def test_rows_of_one_width_share_a_call(cls):
    assembly = assembled(cls)
    _, state = own_loop(assembly, still(assembly, (PROMPTS[0], PROMPTS[2], PROMPTS[0])))
    seen = []
    handle = assembly.model.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    t = state.table.timesteps[:1].expand(3)
    assembly.hooks.predict(
        model=assembly.model, x=state.x, t=t, conditioning=state.conditioning, call=state.requests[0].call, step=None
    )
    handle.remove()
    assert sorted(seen) == [1, 1, 2, 2], "with and without guidance, for the width of one prompt and of the other"


# -------------------------------------------------------------------------------------------------------- stand-ins


def inverted() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(invert_sigmas=True)


def test_where_time_runs_the_other_way_velocities_change_their_sign():
    one = scheduler_stand_ins.OneStep(inverted(), torch.tensor(250.0), streams=None)
    one.step(torch.ones(1), torch.tensor(250.0), torch.zeros(1))
    assert one.velocities == [-torch.ones(1)]


def test_euler_steps_where_time_runs_the_other_way_are_diffusers_own():
    own = inverted()
    own.set_timesteps(3)
    table = SigmaTable(own.timesteps, 1 - own.sigmas)
    x = torch.tensor([0.5])
    euler = scheduler_stand_ins.Euler(inverted(), table, [x])
    euler.set_timesteps(3)
    for i, t in enumerate(own.timesteps):
        velocity = torch.tensor([i + 1.0])
        x = own.step(velocity, t, x, return_dict=False)[0]
        stepped = euler.step(velocity, t, euler.latents[0], return_dict=False)[0]
        torch.testing.assert_close(stepped, x)


def test_a_step_answers_as_schedulers_do():
    one = scheduler_stand_ins.OneStep(FlowMatchEulerDiscreteScheduler(), torch.tensor(250.0), streams=None)
    sample = torch.zeros(1)
    assert one.step(torch.ones(1), 250.0, sample).prev_sample is sample
    assert one.step(torch.ones(1), 250.0, sample, return_dict=False)[0] is sample
    assert isinstance(one, FlowMatchEulerDiscreteScheduler), "for pipelines that ask which scheduler they have"


def test_silent_denoisers_answer_lists_with_lists():
    denoiser = toy_two_streams.ToyTwoStreamsTransformer()
    with capture.denoisers_silenced({"transformer": denoiser}):
        (answer,) = denoiser([torch.ones(2), torch.ones(3)])
        output = denoiser(torch.ones(2), audio_hidden_states=torch.ones(3), encoder_hidden_states=torch.ones(4))
    assert [x.tolist() for x in answer] == [[0, 0], [0, 0, 0]]
    assert output.sample.tolist() == [0, 0]
    assert [x.tolist() for x in output] == [[0, 0], [0, 0, 0]]


def test_silent_denoisers_answer_lists_of_lists_with_the_sample_at_the_end_of_each():
    class OfX(torch.nn.Module):
        def forward(self, x, t):
            raise NotImplementedError

    denoiser = OfX()
    with capture.denoisers_silenced({"transformer": denoiser}):
        (answer,) = denoiser(x=[[torch.ones(2), torch.ones(1)], [torch.ones(3)]], t=torch.ones(2))
    assert [x.tolist() for x in answer] == [[0], [0, 0, 0]]


def test_no_hook_runs_around_a_silent_denoiser():
    """Those of sharded weights would wait for a forward of the other ranks."""
    denoiser, seen = torch.nn.Linear(1, 1), []
    denoiser.register_forward_pre_hook(lambda *_: seen.append("before"))
    with capture.denoisers_silenced({"transformer": denoiser}):
        denoiser(torch.ones(1))
    assert seen == []
    denoiser(torch.ones(1))
    assert seen == ["before"]


def decoded(change, prompts=PROMPTS) -> dict[str, torch.Tensor]:
    """Samples of a pipeline whose autoencoder's pixels are changed."""
    assembly = assembled(Toy)
    _, state = own_loop(assembly, still(assembly, prompts))
    vae = assembly.model.pipe.vae
    own = vae.decode
    vae.__dict__["decode"] = lambda z, return_dict: (change(own(z, return_dict=False)[0]),)
    call = state.requests[0].call
    with torch.no_grad():
        return assembly.hooks.decode_latents(
            model=assembly.model, latents=state.x, conditioning=state.conditioning, call=call
        )


def test_where_the_autoencoder_takes_no_batch_samples_are_decoded_one_by_one():
    """As that of HunyuanVideo 1.5."""

    def fails_with_several(pixels):
        if len(pixels) > 1:
            raise RuntimeError("shapes do not match")
        return pixels

    together, one_by_one = decoded(lambda pixels: pixels), decoded(fails_with_several)
    for kind, expected in together.items():
        torch.testing.assert_close(one_by_one[kind], expected, rtol=0, atol=1e-5)


def test_samples_that_change_each_other_in_a_batch_are_decoded_one_by_one():
    """As frames of Kandinsky 5, which are normalised over the whole batch."""
    together = decoded(lambda pixels: pixels + 2 * pixels.mean())
    alone = [decoded(lambda pixels: pixels + 2 * pixels.mean(), [prompt]) for prompt in PROMPTS]
    for kind, media in together.items():
        torch.testing.assert_close(media, torch.cat([each[kind] for each in alone]), rtol=0, atol=1e-5)


def test_pictures_with_an_opacity_lie_on_white():
    """As those of Qwen-Image 2.1, which have a fourth channel: 0 where nothing is."""
    plain = decoded(lambda pixels: pixels)["image"]
    found = decoded(lambda pixels: torch.cat([pixels, torch.full_like(pixels[:, :1], -0.5)], 1))["image"]
    torch.testing.assert_close(found, 0.25 * plain + 0.75, rtol=0, atol=1e-6)


def test_frames_of_one_sample_without_a_batch_are_a_video():
    """As those of Cosmos 3."""
    found = decoded(lambda pixels: pixels.repeat(5, 1, 1, 1), PROMPTS[:1])
    assert found["video"].shape[:3] == (1, 5, 3)


def test_a_pipeline_warns_about_texts_and_about_nothing_else(caplog):
    import logging

    class Warns(Toy):
        def encode_prompt(self, *args, **kwargs):
            logging.getLogger(type(self).__module__).warning("something")
            return super().encode_prompt(*args, **kwargs)

    Warns.__module__ = "omni_rl_test_pipeline"
    assembly = assembled(Warns)
    with caplog.at_level("WARNING"):
        _, state = own_loop(assembly, still(assembly))
    told = len(caplog.records)
    assert told > 0
    with torch.no_grad():
        assembly.hooks.decode_latents(
            model=assembly.model, latents=state.x, conditioning=state.conditioning, call=state.requests[0].call
        )
    assert len(caplog.records) == told
