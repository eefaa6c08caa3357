"""What the adapter cannot do it says in one sentence, before anything is trained; and what it borrows it gives back."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest
import torch
import toy_two_streams
from model_cases import OneWindow
from torch import nn

from omni_rl import hookimpl
from omni_rl.contracts.types import SigmaTable
from omni_rl.errors import ModelError
from omni_rl.model.adapters import make_trainable
from omni_rl.model.loading import from_pipe, load_model
from omni_rl.universal import scheduler_stand_ins
from omni_rl_testing.parts import Parts, assemble

Toy = toy_two_streams.ToyTwoStreamsPipeline


def assembled(cls: type | None = None, **call) -> Parts:
    """A run's parts around the toy, or around a subclass of its pipeline."""
    pipe = toy_two_streams.pipeline()
    if cls is not None:
        pipe = cls(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    model = from_pipe(pipe, path=Path("toy"), device=torch.device("cpu"))
    rollout = {"call": {**toy_two_streams.CALL, **call}}
    return assemble(model, algorithm=OneWindow(), model={"lora": {"rank": 2}}, rollout=rollout)


def draw(assembly: Parts):
    return assembly.draw(assembly.requests())


# ------------------------------------------------------------------------------------------------ prompts


class TakesTextsOnly(Toy):
    @torch.no_grad()
    def __call__(
        self,
        prompt=None,
        negative_prompt=None,
        height=8,
        width=8,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=None,
        latents=None,
        audio_latents=None,
        output_type="pt",
        return_dict=False,
    ):
        arguments = {n: v for n, v in locals().items() if n != "self" and not n.startswith("__")}
        return Toy.__call__(self, **arguments)


class OneRowMore(Toy):
    def encode_prompt(self, *args, **kwargs):
        prompt_embeds, mask, negative, negative_mask = super().encode_prompt(*args, **kwargs)
        if len(prompt_embeds) == 3:
            prompt_embeds = torch.cat([prompt_embeds, prompt_embeds[:1]])
        return prompt_embeds, mask, negative, negative_mask


class OneForAll(Toy):
    """The negative prompt's embeddings, however many prompts there are, stand there once."""

    def encode_prompt(self, *args, **kwargs):
        prompt_embeds, mask, negative, negative_mask = super().encode_prompt(*args, **kwargs)
        return prompt_embeds, mask, negative[:1], negative_mask[:1]


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (TakesTextsOnly, r"TakesTextsOnly\.encode_prompt gives no embeddings that its __call__ takes back"),
        (OneRowMore, r"OneRowMore\.encode_prompt gives embeddings of unexpected shape \{'prompt_embeds': \(4, "),
        (
            OneForAll,
            r"OneForAll\.encode_prompt gives a negative_prompt_embeds that is the same for any number of prompts",
        ),
    ],
)
def test_prompts_that_cannot_be_passed_back(cls, sentence):
    with pytest.raises(ModelError, match=sentence) as raised:
        draw(assembled(cls))
    assert raised.value.hint == "this model needs a plugin: omni-rl new model"


# ------------------------------------------------------------------------------------------------ latents and noise


def test_noise_that_a_pipeline_draws_by_itself_fails_loudly():
    with pytest.raises(ModelError, match="draws noise of its own, although it is given latents"):
        draw(assembled(jitter=0.1))


class Clamping(Toy):
    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is None else latents.clamp(-3, 3)


class Whitening(Toy):
    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is None else latents - latents.mean()


class Forgetting(Toy):
    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is None else latents * (torch.arange(shape[-1]) > 0)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Clamping, "positions do not come back one by one"),
        (Whitening, "elements are lost on the way"),
        (Forgetting, "elements are lost on the way"),
    ],
)
def test_latents_that_the_pipeline_changes_beyond_recall(cls, why):
    sentence = f"{cls.__name__} changes the latents it is given as latents= before it steps them: {why}"
    with pytest.raises(ModelError, match=sentence) as raised:
        draw(assembled(cls))
    assert raised.value.hint == "this model needs a plugin: omni-rl new model"


class Louder(Toy):
    def _latents(self, shape, given, generator):
        latents = super()._latents(shape, given, generator)
        return latents if given is not None else 3 * latents


def test_noise_that_is_not_standard_normal():
    with pytest.raises(
        ModelError, match=r"Louder starts from noise of mean -?0\.\d+ and deviation [23].*, not 0 and 1"
    ):
        draw(assembled(Louder))


class TakesPicturesOnly(Toy):
    @torch.no_grad()
    def __call__(
        self,
        prompt=None,
        negative_prompt=None,
        height=8,
        width=8,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=None,
        latents=None,
        prompt_embeds=None,
        prompt_attention_mask=None,
        negative_prompt_embeds=None,
        negative_prompt_attention_mask=None,
        output_type="pt",
        return_dict=False,
    ):
        arguments = {n: v for n, v in locals().items() if n != "self" and not n.startswith("__")}
        return Toy.__call__(self, **arguments)


def test_more_streams_than_arguments():
    sentence = r"TakesPicturesOnly steps 2 latent streams but __call__ takes \['latents'\]"
    with pytest.raises(ModelError, match=sentence):
        draw(assembled(TakesPicturesOnly))


def test_arguments_that_the_pipeline_refuses(cases):
    assembly = cases("StableDiffusion3Pipeline", False).fresh(rollout={"call": {"height": 17, "width": 16}})
    with pytest.raises(ModelError, match=r"StableDiffusion3Pipeline refuses its call: .*divisible by .* 17") as raised:
        draw(assembly)
    assert raised.value.hint == "see rollout.call"


# ------------------------------------------------------------------------------------------------ what is loaded


class Brittle(Toy):
    def __call__(self, *args, scale=1, **kwargs):
        return super().__call__(*args, **kwargs, height=8 // scale["factor"])


@pytest.mark.parametrize("scale", [2, {"factor": "two"}, {}], ids=["TypeError", "str", "KeyError"])
def test_arguments_that_break_the_pipeline(scale):
    with pytest.raises(ModelError, match=r"Brittle fails with these arguments: (Type|Key)Error"):
        draw(assembled(Brittle, scale=scale))


def test_dropout_in_what_trains():
    model = assembled().model
    model.pipe.transformer.text = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.1))
    with pytest.raises(ModelError, match=r"transformer\.text\.1 has dropout 0\.1: rollout and replay run without it"):
        make_trainable(model, None, seed=0)
    model.pipe.transformer.text[1].p = 0.0
    make_trainable(model, None, seed=0)


def test_a_pipeline_without_a_denoiser(tmp_path):
    pipe = toy_two_streams.pipeline()
    pipe.transformer = None
    with pytest.raises(ModelError, match="no component named transformer"):
        from_pipe(pipe, path=tmp_path, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{}", "model_index.json: _class_name is None"),
        ('{"_class_name": "NoSuchPipeline"}', ": diffusers cannot load this pipeline: .+"),
        ('{"_class_name": "FluxPipeline", "vae": ["os", "system"]}', r"model_index.json: vae is \['os', 'system'\]"),
    ],
)
def test_a_folder_that_diffusers_cannot_load(index, says, tmp_path):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ModelError, match=f"{tmp_path}.*{says}"):
        load_model(tmp_path, device=torch.device("cpu"), precision="fp32", full=False)


def test_pickled_weights_are_not_read(tiny_folder, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder("FluxPipeline"), folder)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="no weights in safetensors, only diffusion_pytorch_model"):
        load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)


def test_code_beside_the_weights_is_not_run(tiny_folder, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder("FluxPipeline"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "pipeline.py").write_text("raise SystemExit('code was run')")
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "Mine"]}))
    with pytest.raises(ModelError, match="code of a model folder is not run"):
        load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)


# ------------------------------------------------------------------------------------------------ what is given back


def test_an_error_inside_the_pipeline_leaves_it_whole():
    assembly = assembled()
    draw(assembly)
    pipe = assembly.model.pipe
    before = {n: dict(vars(m)) for n, m in assembly.model.modules.items()}
    inside = dict(vars(pipe))

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"fails.*: RuntimeError: out of memory"):
        draw(assembly)
    handle.remove()
    decoder = pipe.vae.decoder.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"fails.*: RuntimeError: out of memory"):
        draw(assembly)
    decoder.remove()
    assert vars(pipe) == inside
    assert {n: set(vars(m)) for n, m in assembly.model.modules.items()} == {n: set(v) for n, v in before.items()}
    draw(assembly)


def test_the_stand_ins_answer_for_the_pipelines_scheduler():
    scheduler = toy_two_streams.pipeline().scheduler
    t = torch.tensor(250.0)
    table = SigmaTable(torch.tensor([1000.0]), torch.tensor([1.0, 0.0]))
    for stand_in in (
        scheduler_stand_ins.OneStep(scheduler, t, streams=1),
        scheduler_stand_ins.Table(scheduler),
        scheduler_stand_ins.Euler(scheduler, table, [torch.zeros(1)]),
    ):
        assert stand_in.config.shift == 2.0
        assert stand_in.order == 1
        with pytest.raises(AttributeError):
            _ = stand_in.no_such_attribute
        sample = torch.ones(2)
        assert stand_in.scale_model_input(sample, t) is sample


def test_one_step_is_where_the_pipeline_is_asked():
    one = scheduler_stand_ins.OneStep(toy_two_streams.pipeline().scheduler, torch.tensor(250.0), streams=2)
    one.set_timesteps(50, device="cpu", mu=0.7)
    assert one.timesteps.tolist() == [250.0]
    assert one.sigmas.tolist() == [0.25, 0.0]
    one.step(torch.ones(1), one.timesteps[0], torch.zeros(1))
    with pytest.raises(scheduler_stand_ins.LeaveCall):
        one.step(torch.ones(1), one.timesteps[0], torch.zeros(1))
    assert len(one.velocities) == 2


def test_a_plugin_may_answer_with_the_universal_hooks_beside_its_own():
    """A local file that overrides one hook leaves the others to the adapter."""
    plugin = types.ModuleType("brighter")

    @hookimpl
    def decode_latents(latents):
        return {"image": torch.ones(len(latents["x"]), 3, 2, 2)}

    plugin.decode_latents = decode_latents
    model = from_pipe(toy_two_streams.pipeline(), path=Path("toy"), device=torch.device("cpu"))
    assembly = assemble(
        model, plugin=plugin, algorithm=OneWindow(), rollout={"call": dict(toy_two_streams.CALL)}, model={"lora": None}
    )
    (media,) = {tuple(s.trajectory["media", "image"].unique().tolist()) for s in draw(assembly)}
    assert media == (255,)
