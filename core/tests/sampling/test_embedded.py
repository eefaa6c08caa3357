from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from omni_rl.contracts import trajectory
from omni_rl.contracts.prompts import PromptRow
from omni_rl.contracts.requests import NO_STEPS, Request, Sde, Window
from omni_rl.contracts.types import Sample
from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl.sampling.plan_requests import validation_requests
from omni_rl.schedulers.randomness import INITIAL, draw_seed, randn
from omni_rl_testing.engine import EngineContract
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import ToyPipeline, toy_model
from omni_rl_testing.trajectories import found

PROMPTS = ("a", "b", "c")


class TestEmbedded(EngineContract):
    @pytest.fixture
    def engine(self):
        return EmbeddedEngine


def parts_of(**rollout) -> Parts:
    sizes = {"steps": 5, "group_size": 2, "batch_size": 4}
    return assemble(toy_model(), prompts=PROMPTS, rollout={**sizes, **rollout})


@pytest.fixture
def parts() -> Parts:
    return parts_of()


# ------------------------------------------------------------------------------------------- against other arithmetic


def reference(parts: Parts, request: Request) -> dict[str, torch.Tensor]:
    """One trajectory in float64, from diffusers' own sigmas, the pipeline's network, and the papers' formulas."""
    pipe = parts.model.pipe
    network = type(pipe.transformer)().double()
    network.load_state_dict({name: value.double() for name, value in pipe.transformer.state_dict().items()})
    embeds = pipe.encode_prompt([request.prompt]).double()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(request.steps)
    sigmas, x = scheduler.sigmas.double(), randn(draw_seed(request.key, "x", INITIAL), (1, 3, 4, 4)).double()
    latents, log_probs = [], []
    for i in range(request.steps):
        sigma, following = float(sigmas[i]), float(sigmas[i + 1])
        with torch.no_grad():
            v = network(x, scheduler.timesteps[i : i + 1].double(), embeds)[0]
        mean, h = x - (sigma - following) * v, sigma - following
        if i in request.window:
            latents.append(x)
            level = request.sde.noise_level * math.sqrt(sigma / (1 - (following if sigma == 1 else sigma)))  # Flow-GRPO
            mean = x - h * (v + level**2 / (2 * sigma) * (x + (1 - sigma) * v))
            noise = level * math.sqrt(h) * randn(draw_seed(request.key, "x", i), (1, 3, 4, 4)).double()
            normal = torch.distributions.Normal(mean, level * math.sqrt(h))
            log_probs.append(normal.log_prob(mean + noise).mean())
            mean = mean + noise
            last = mean
        x = mean
    stop = request.window.stop
    return {
        "all": torch.cat([*latents, last]),
        "final": x[0],
        "log_probs": torch.stack(log_probs),
        "sigmas": sigmas[request.window.start : stop + 1],
        "timesteps": scheduler.timesteps[request.window.start : stop].double(),
    }


@pytest.mark.parametrize("window", [Window(0, 1), Window(1, 3), Window(3, 5), Window(0, 5)], ids=str)
def test_a_trajectory_is_what_the_formulas_say(parts, window):
    requests = [replace(request, window=window) for request in parts.requests()]
    for sample in parts.draw(requests):
        expected, rows = reference(parts, sample.request), found(sample)
        ours = {**rows["latents", "x"], **{n: rows[n] for n in ("log_probs", "sigmas", "timesteps")}}
        for name, value in expected.items():
            torch.testing.assert_close(ours[name].double(), value, rtol=2e-5, atol=2e-5, msg=lambda m, n=name: n + m)


def test_without_noise_it_is_the_pipelines_own_loop(parts):
    pipe: ToyPipeline = parts.model.pipe
    requests = [replace(request, window=NO_STEPS) for request in parts.requests()]
    start = torch.stack([randn(draw_seed(r.key, "x", INITIAL), (3, 4, 4)) for r in requests])
    (own,) = pipe([r.prompt for r in requests], 5, latents=start, output_type="latent")
    ours = torch.stack([found(sample)["latents", "x", "final"] for sample in parts.draw(requests)])
    torch.testing.assert_close(ours, own, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", ["sde", "cps", "dance_sde"])
def test_stored_steps_replay_to_the_bit(kind):
    """x' from mean, std and the key's noise, and its log-prob: in fp32, by the very arithmetic of the rollout."""
    parts = parts_of(batch_size=2, sde={"type": kind})
    requests = parts.requests()
    batch = trajectory.collate(parts.draw(requests))
    for rows in torch.arange(len(batch)).split(2):  # batches composed as the engine's
        part, asked = batch[rows], [requests[row] for row in rows]
        for step in range(batch["timesteps"].shape[1]):
            with torch.no_grad():
                (now,) = parts.backend.policy.evaluate(part, [step])
            seeds = [draw_seed(r.key, "x", r.window.start + step) for r in asked]
            noise = torch.stack([randn(seed, (3, 4, 4)) for seed in seeds])
            assert torch.equal(now.transitions["x"].sample(noise), part["latents", "x", "all"][:, step + 1])
            assert torch.equal(now.log_prob, part["log_probs"][:, step])


def test_a_group_may_share_its_initial_noise():
    parts = parts_of(share_initial_noise=True)
    samples = parts.draw(parts.requests())
    first, second = (found(sample)["latents", "x"] for sample in samples[:2])
    assert torch.equal(first["all"][0], second["all"][0])
    assert not torch.equal(first["final"], second["final"])
    assert not torch.equal(first["all"][0], found(samples[4])["latents", "x", "all"][0])  # another group's


def test_pictures_are_the_final_latents_quantised(parts):
    for sample in parts.draw(parts.requests()):
        expected = ((found(sample)["latents", "x", "final"] / 2 + 0.5).clamp(0, 1) * 255).round().movedim(0, -1)
        assert torch.equal(found(sample)["media", "image"], expected.to(torch.uint8))


def test_an_empty_window_keeps_the_state_that_entered_it(parts):
    """x_T: what a forward-process algorithm finds in place of zeros."""
    requests = [replace(request, window=NO_STEPS) for request in parts.requests()]
    for sample in parts.draw(requests):
        start = randn(draw_seed(sample.request.initial_key, "x", INITIAL), (3, 4, 4))
        assert torch.equal(found(sample)["latents", "x", "all"], start[None])


# ------------------------------------------------------------------------------------------------------------ prompts


@pytest.fixture
def encoded(parts, monkeypatch) -> list[list[str]]:
    """The prompts of every call of the text encoder."""
    seen: list[list[str]] = []
    encode_prompt = parts.hooks.encode_prompt

    def recorded(**arguments):
        seen.append(list(arguments["prompts"]))
        return encode_prompt(**arguments)

    monkeypatch.setattr(parts.hooks, "encode_prompt", recorded)
    return seen


def test_a_prompt_is_encoded_once_and_a_retry_finds_it(parts, encoded):
    requests = parts.requests()
    distinct = list(dict.fromkeys(r.prompt for r in requests))
    parts.draw(requests)
    parts.draw(requests[1:2])
    assert encoded == [distinct]
    parts.draw([replace(r, key=replace(r.key, iteration=9)) for r in requests])  # the next iteration's
    assert encoded == [distinct, distinct]


def test_a_second_submission_leaves_the_prompts_of_the_first(parts, encoded):
    requests = parts.requests()
    parts.engine.submit(requests[:4])
    parts.engine.submit([replace(r, key=replace(r.key, iteration=9)) for r in requests[4:]])
    assert [sample.request.prompt for sample in parts.engine.completed()] == [r.prompt for r in requests]
    assert [prompt for call in encoded for prompt in call] == list(dict.fromkeys(r.prompt for r in requests))


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.fixture
def batches(parts, monkeypatch) -> list[list[Request]]:
    """What the engine denoises together, in order."""
    seen: list[list[Request]] = []
    diffuse = parts.hooks.diffuse

    def recorded(*, model, requests) -> list[Sample]:
        seen.append(requests)
        return diffuse(model=model, requests=requests)

    monkeypatch.setattr(parts.hooks, "diffuse", recorded)
    return seen


def test_it_samples_one_batch_at_a_time(parts, batches):
    """Rewards score the first batch while the next one is drawn; nothing is drawn before anyone asks."""
    parts.engine.submit(parts.requests())
    arriving = parts.engine.completed()
    assert batches == []
    next(arriving)
    assert [len(batch) for batch in batches] == [4]
    list(arriving)
    assert [len(batch) for batch in batches] == [4, 2]


@pytest.mark.parametrize(("own", "sizes"), [(None, [4, 2]), (5, [5, 1])])
def test_validation_may_have_a_batch_size_of_its_own(parts, batches, own, sizes):
    validation = parts.config.validation.model_copy(update={"batch_size": own})
    config = parts.config.model_copy(update={"validation": validation})
    rows = [PromptRow(prompt) for prompt in PROMPTS]
    engine = EmbeddedEngine(replace(parts.context, config=config))
    for requests in (validation_requests(config, rows, policy_version=0, each=2), parts.requests()):
        engine.submit(requests)
        list(engine.completed())
    assert [len(batch) for batch in batches] == [*sizes, 4, 2]


@pytest.mark.parametrize(
    "change", [{"steps": 7}, {"sde": Sde("cps", 0.5)}, {"window": Window(0, 1)}], ids=["steps", "sde", "window size"]
)
def test_only_requests_that_share_their_schedule_share_a_batch(parts, batches, change):
    requests = parts.requests()
    mixed = [*requests[:2], *(replace(request, **change) for request in requests[2:4]), *requests[4:]]
    samples = parts.draw(mixed)
    assert [len(batch) for batch in batches] == [4, 2]
    assert [sample.request for sample in samples] == mixed


def test_closing_drops_what_was_not_sampled(parts, batches):
    parts.engine.submit(parts.requests())
    parts.engine.close()
    assert list(parts.engine.completed()) == []
    assert batches == []
