"""The universal adapter against the pipelines' own calls: every architecture, with and without guidance."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from model_cases import Case, Euler, own_loop, stepping, still

from omni_rl.contracts.types import SigmaTable
from omni_rl.universal.capture import denoisers_silenced
from omni_rl_testing.parts import PROMPTS

SHORT = "a sign"
LONG = "describe the image of a sign that says hello world " * 2  # about 100 tokens for every tokenizer here


def test_velocities_are_the_pipelines_own(case: Case):
    assembly = case.assembly()
    start, state = own_loop(assembly, still(assembly))
    with stepping(case.plain.scheduler) as steps:
        case.own(start, output_type="latent")
    assert len(steps) == 4
    for step in steps:  # the solver's own trajectory, which is not Euler's for Wan and Sana
        t = step.timestep.float().expand(len(PROMPTS))
        with torch.no_grad():
            velocity = assembly.hooks.predict(
                model=assembly.model,
                x={"x": step.sample},
                t=t,
                conditioning=state.conditioning,
                call=state.requests[0].call,
                step=None,
            )
        assert torch.equal(velocity["x"], step.velocity.float())


def test_noise_off_latents_and_pictures_are_the_pipelines_own(case: Case, monkeypatch):
    assembly = case.assembly()
    start, state = own_loop(assembly, still(assembly))
    if not isinstance(case.plain.scheduler, FlowMatchEulerDiscreteScheduler):
        monkeypatch.setattr(case.plain, "scheduler", Euler(case.plain.scheduler))
    assert torch.equal(state.x["x"], case.own(start, output_type="latent"))
    pictures = case.own(start, output_type="np")
    samples = assembly.hooks.post_decode(model=assembly.model, state=state)
    for sample, picture in zip(samples, pictures, strict=True):
        (media,) = sample.trajectory["media"].values()
        off = np.abs(media.numpy() - np.asarray(picture) * 255.0).max()
        assert off <= 0.5 + 1e-3, "bytes are the nearest"


def test_the_schedule_is_the_one_the_pipeline_made(case: Case):
    assembly = case.assembly()
    start, state = own_loop(assembly, still(assembly))
    case.own(start, output_type="latent")
    own = case.plain.scheduler
    assert torch.equal(state.table.timesteps, own.timesteps.float())
    assert torch.equal(state.table.sigmas, own.sigmas.float())
    assert state.table.sigmas[-1] == 0


def test_log_probs_replay_to_the_bit(case: Case):
    policy = case.assembly(lora=True).backend.policy
    for step in range(case.batch["timesteps"].shape[1]):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                log_prob = policy.evaluate(case.batch, [step])[0].log_prob
            assert log_prob.requires_grad == gradients
            assert torch.equal(log_prob.detach(), case.batch["log_probs"][:, step])


def test_replay_calls_no_conditioning_encoder(case: Case):
    assembly = case.fresh()
    counts = assembly.model.counts
    assert len(counts) >= 2, counts  # text encoders, and the autoencoder's encoder
    samples = assembly.draw(assembly.requests())
    drawn = dict(counts)
    assert sum(drawn.values()) > 0
    batch = assembly.batch()
    assert dict(counts) == drawn, "requests that come again find their prompts"
    before = dict(counts)
    assembly.backend.update(batch, iteration=0)
    assert dict(counts) == before
    assert len(samples) == len(batch)


def test_any_timesteps_in_one_batch_equal_single_calls(case: Case):
    assembly = case.assembly(lora=True)
    start, state = own_loop(assembly, still(assembly))
    rows = [0, 1, 2, 1, 0]
    t = torch.tensor([937.25, 12.5, 500.0, 937.25, 731.125])  # none on the table
    x = {"x": start["x"][rows]}
    conditioning = {n: v[rows] for n, v in state.conditioning.items()}

    def predict(part: list[int]) -> torch.Tensor:
        velocity = assembly.hooks.predict(
            model=assembly.model,
            x={"x": x["x"][part]},
            t=t[part],
            conditioning={n: v[part] for n, v in conditioning.items()},
            call=state.requests[0].call,
            step=None,
        )
        return velocity["x"]

    with torch.no_grad():
        together = predict([0, 1, 2, 3, 4])
        alone = torch.cat([predict([i]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
    assert not torch.allclose(alone[1], alone[3], atol=1e-3), "the timestep matters"


def test_prompts_of_5_and_100_tokens_share_a_batch(guided_case: Case):
    assembly = guided_case.fresh(rollout={"call": {**guided_case.call, **_room(guided_case.call)}})
    start, state = own_loop(assembly, still(assembly, (SHORT, LONG)))
    with torch.no_grad():
        together = _velocity(assembly, start["x"], state)
    for row, prompt in enumerate((SHORT, LONG)):
        assembly.model.caches.clear()  # or the prompt would keep the width that it shared with the other one
        _, alone = own_loop(assembly, still(assembly, (prompt,)))
        x = start["x"][row : row + 1]
        with stepping(guided_case.plain.scheduler) as steps:
            guided_case.own({"x": x}, [prompt], output_type="latent", **_room(guided_case.call))
        with torch.no_grad():
            single = _velocity(assembly, x, alone)
        assert torch.equal(single, steps[0].velocity.float())
        torch.testing.assert_close(together[row], single[0], rtol=0, atol=1e-5 * float(single.abs().max()))


def _room(call: dict[str, object]) -> dict[str, object]:
    return {"max_sequence_length": 128} if "max_sequence_length" in call else {}


def _velocity(assembly, x: torch.Tensor, state) -> torch.Tensor:
    t = state.table.timesteps[:1].expand(len(x))
    velocity = assembly.hooks.predict(
        model=assembly.model, x={"x": x}, t=t, conditioning=state.conditioning, call=state.requests[0].call, step=None
    )
    return velocity["x"]


def test_log_probs_do_not_depend_on_the_batch(guided_case: Case):
    policy = guided_case.assembly(lora=True).backend.policy
    seven = torch.cat([guided_case.batch, guided_case.batch[:1]])
    for step in range(seven["timesteps"].shape[1]):
        with torch.no_grad():
            found = [
                torch.cat([policy.evaluate(part, [step])[0].log_prob for part in seven.split(size)])
                for size in (1, 2, 7)
            ]
        for log_prob in found:
            torch.testing.assert_close(log_prob, seven["log_probs"][:, step], rtol=0, atol=1e-6)


def test_n_pictures_of_a_prompt_equal_n_calls(guided_case: Case):
    assembly = guided_case.assembly(lora=True)
    requests = [r for r in assembly.requests() if r.prompt == PROMPTS[2]]
    together = assembly.draw(requests)
    alone = [assembly.draw([r])[0] for r in requests]
    assert len(requests) == 2
    for one, other in zip(together, alone, strict=True):
        a, b = one.trajectory, other.trajectory
        assert not torch.equal(
            together[0].trajectory["latents", "x", "final"], together[1].trajectory["latents", "x", "final"]
        )
        torch.testing.assert_close(a["latents", "x", "all"], b["latents", "x", "all"], rtol=0, atol=1e-5)
        torch.testing.assert_close(a["log_probs"], b["log_probs"], rtol=0, atol=1e-5)
        for name in a.keys():
            if "embeds" in name:
                assert torch.equal(a[name], b[name])


def test_nothing_is_changed_in_place(guided_case: Case):
    assembly = guided_case.assembly(lora=True)
    policy = assembly.backend.policy
    kept = guided_case.batch.clone()
    inputs = assembly.hooks.prepare_model_inputs(policy=policy, batch=guided_case.batch, steps=[1])
    copy = {n: v.clone() for n, v in {**inputs["x"], **inputs["conditioning"]}.items()}
    policy.predict(**inputs)["x"].sum().backward()
    for parameter in policy.parameters.values():
        parameter.grad = None
    assert all(torch.equal(v, copy[n]) for n, v in {**inputs["x"], **inputs["conditioning"]}.items())
    assert all(torch.equal(guided_case.batch[n], kept[n]) for n in kept.keys(include_nested=True, leaves_only=True))


def test_the_pipeline_is_left_as_it_was(guided_case: Case):
    """Its scheduler, its methods, and the pictures that its plain call makes."""
    assembly = guided_case.fresh()
    pipe, scheduler = assembly.model.pipe, assembly.model.pipe.scheduler
    config, table = dict(scheduler.config), _tables(scheduler)
    (first, *_) = assembly.draw(assembly.requests())
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    assert str(_tables(scheduler)) == str(table)
    assert "encode_prompt" not in vars(pipe)
    assert not any("forward" in vars(m) or m._forward_pre_hooks for m in assembly.model.denoisers.values())
    call = {**guided_case.call, "prompt": "a sign", "num_inference_steps": 2, "output_type": "np"}
    start = first.trajectory["latents", "x", "all"][:1]
    pictures = [np.asarray(p(**call, latents=start.clone(), return_dict=False)[0]) for p in (pipe, guided_case.plain)]
    assert np.array_equal(*pictures)


def _tables(scheduler: SchedulerMixin) -> dict[str, object]:
    return {
        n: v for n, v in vars(scheduler).items() if n in ("timesteps", "sigmas", "_step_index", "num_inference_steps")
    }


def test_a_silent_denoiser_calls_no_hook():
    """A hook of sharded weights would ask other ranks for a forward that does not come."""
    denoiser, called = torch.nn.Linear(2, 2), []
    denoiser.register_forward_pre_hook(lambda *_: called.append("before"))
    denoiser.register_forward_hook(lambda *_: called.append("after"))
    with denoisers_silenced({"transformer": denoiser}):
        assert not denoiser(torch.ones(1, 2))[0].any()
    assert called == []
    denoiser(torch.ones(1, 2))
    assert called == ["before", "after"]


def test_the_table_is_data(guided_case: Case):
    _, state = own_loop(guided_case.assembly(), still(guided_case.assembly()))
    assert isinstance(state.table, SigmaTable)
    assert state.table.timesteps.dtype == state.table.sigmas.dtype == torch.float32
    assert state.table.timesteps.device.type == "cpu"
