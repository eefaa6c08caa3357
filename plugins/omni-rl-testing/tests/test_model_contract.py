"""The model suite passes the universal adapter and fails one test for each way to break the contract."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from omni_rl.contracts.hooks import hookimpl
from omni_rl.universal import hooks as universal
from omni_rl_testing.model import ModelContract, Oracle, assembled
from omni_rl_testing.parts import PROMPTS, drawn
from omni_rl_tiny import pipelines

ARCHITECTURE = "FluxPipeline"
CALL = {"height": 16, "width": 24, "guidance_scale": 3.5}


class Plugin:
    """A plugin may be any object that carries hooks."""

    __name__ = "under_test"


class OtherTemplate(Plugin):
    @hookimpl
    def encode_prompt(self, model, prompts, negative_prompts, call):
        return universal.encode_prompt(model, [f"{prompt}." for prompt in prompts], negative_prompts, call)


class OtherShift(Plugin):
    @hookimpl
    def set_timesteps(self, model, steps, shapes, conditioning, call):
        tables = universal.set_timesteps(model, steps, shapes, conditioning, call)
        return {stream: replace(table, sigmas=1.01 * table.sigmas) for stream, table in tables.items()}


class OtherGuidance(Plugin):
    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        return universal.predict(model, x, t, conditioning, {**call, "guidance_scale": 1.0})


class Unclamped(Plugin):
    @hookimpl
    def decode_latents(self, model, latents, conditioning, call):
        found = universal.decode_latents(model, latents, conditioning, call)
        return {kind: 1.01 * pixels for kind, pixels in found.items()}


class Turned(Plugin):
    """Rows for columns."""

    @hookimpl
    def decode_latents(self, model, latents, conditioning, call):
        found = universal.decode_latents(model, latents, conditioning, call)
        return {kind: pixels.transpose(-1, -2) for kind, pixels in found.items()}


class Drifting(Plugin):
    """Answers a little differently every time it is asked, as dropout or a forgotten cache would."""

    calls = 0

    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        self.calls += 1
        found = universal.predict(model, x, t, conditioning, call)
        return {name: velocity * (1 + 1e-6 * self.calls) for name, velocity in found.items()}


class Encoding(Plugin):
    """Asks the text encoder at every step."""

    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        with torch.no_grad():
            model.pipe.encode_prompt("a", "a")
        return universal.predict(model, x, t, conditioning, call)


class Coupled(Plugin):
    """Normalises over the batch."""

    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        found = universal.predict(model, x, t, conditioning, call)
        return {name: velocity - 0.01 * velocity.mean(0) for name, velocity in found.items()}


class FirstTimestep(Plugin):
    """Takes the first row's timestep for all."""

    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        return universal.predict(model, x, t[:1].expand_as(t), conditioning, call)


class Detached(Plugin):
    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        found = universal.predict(model, x, t, conditioning, call)
        return {name: velocity.detach() for name, velocity in found.items()}


class OtherwiseAtTheEnd(Plugin):
    """Is right at every timestep that samples visit here, and wrong at those of a longer schedule."""

    @hookimpl
    def predict(self, model, x, t, conditioning, call):
        found = universal.predict(model, x, t, conditioning, call)
        late = 1 + (t < 100).to(t)
        return {name: velocity * late.view(-1, *[1] * (velocity.ndim - 1)) for name, velocity in found.items()}


class NoSuchTarget(Plugin):
    @hookimpl
    def defaults(self):
        return {"model": {"lora": {"targets": ["to_q", "to_quit"]}}}


class Truncating(Plugin):
    @hookimpl
    def tokenize(self, model, prompts):
        tokens = model.pipe.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        return {"prompt_ids": tokens.input_ids, "prompt_ids_mask": tokens.attention_mask}


class Imported(Plugin):
    """Stands for a package that something in the listing imports."""

    __name__ = "json"


FAULTS = {
    OtherTemplate: "test_embeddings_are_the_pipelines_own",
    OtherShift: "test_schedule_is_the_pipelines_own",
    OtherwiseAtTheEnd: "test_velocities_are_the_pipelines_own",
    OtherGuidance: "test_without_noise_samples_are_the_pipelines_own",
    Unclamped: "test_decoding_is_the_pipelines_own",
    Turned: "test_decoding_is_the_pipelines_own",
    Drifting: "test_log_probs_replay_to_the_bit",
    Encoding: "test_replay_calls_no_encoder",
    Coupled: "test_neighbours_do_not_matter",
    FirstTimestep: "test_every_row_may_have_its_own_timestep",
    Detached: "test_weights_get_gradients_and_reach_samples",
    NoSuchTarget: "test_suggested_lora_targets_exist",
    Truncating: "test_a_prompt_that_is_too_long_is_refused",
    Imported: "test_listing_plugins_imports_neither_torch_nor_the_plugin",
}
TESTS = [name for name in dir(ModelContract) if name.startswith("test_")]


OTHERS = ("QwenImagePipeline", "StableDiffusion3Pipeline", "WanPipeline")


class TestSound(ModelContract):
    """Without a plugin: the universal adapter."""

    @pytest.fixture(
        scope="module", params=[ARCHITECTURE, *(pytest.param(other, marks=pytest.mark.ci) for other in OTHERS)]
    )
    @classmethod
    def architecture(cls, request):
        return request.param

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, architecture, tiny_folder):
        return tiny_folder(architecture)

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return None

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls, architecture):
        return pipelines.CALLS[architecture]


@pytest.mark.ci
@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty, test, tiny_folder):
    plugin, method = faulty(), getattr(ModelContract(), test)
    needed = inspect.signature(method).parameters
    given = {"plugin": plugin, "call": CALL}
    if "parts" in needed or "probe" in needed:
        given["parts"] = assembled(tiny_folder(ARCHITECTURE), plugin, CALL, PROMPTS)
    if "probe" in needed or "oracle" in needed:
        given["probe"] = drawn(given["parts"])
        given["oracle"] = Oracle(given["parts"].subject, given["probe"])
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        method(**{name: given[name] for name in needed})


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()
