"""Injected faults: each turns its row red, says what is wrong in a sentence, and leaves the other rows alone."""

from __future__ import annotations

import pytest

from omni_rl_tiny import pipelines

OWN_LOOP = "without SDE noise, latents differ"

FAULTS = {
    "sigmas shifted by one percent": (
        """
        @hookimpl
        def set_timesteps(model, steps, shapes):
            table = qwen.set_timesteps(model=model, steps=steps, shapes=shapes)["x"]
            return {"x": SigmaTable(table.timesteps, table.sigmas * 0.99)}
        """,
        {
            "schedule": "sigmas differ from the pipeline's by 0.01, timesteps by 0",
            "own loop": r"without SDE noise, latents differ from the pipeline's own loop by .* \(at most",
        },
    ),
    "timesteps of another table": (
        """
        @hookimpl
        def set_timesteps(model, steps, shapes):
            table = qwen.set_timesteps(model=model, steps=steps, shapes=shapes)["x"]
            return {"x": SigmaTable(table.timesteps - 10, table.sigmas)}
        """,
        {"schedule": "sigmas differ from the pipeline's by 0, timesteps by 10", "own loop": OWN_LOOP},
    ),
    "a step less": (
        """
        @hookimpl
        def set_timesteps(model, steps, shapes):
            return qwen.set_timesteps(model=model, steps=steps - 1, shapes=shapes)
        """,
        {"schedule": "set_timesteps gives 2 steps, the pipeline's scheduler 3", "own loop": OWN_LOOP},
    ),
    "one token more in the template": (
        """
        @hookimpl
        def tokenize(model, prompts):
            return qwen.tokenize(model=model, prompts=[p + "." for p in prompts])
        """,
        {
            "text": r"prompt_embeds has \d+ tokens, the pipeline's \d+: the template or the tokenizer differs",
            "own loop": OWN_LOOP,
        },
    ),
    "one token of the template changed": (
        """
        @hookimpl
        def tokenize(model, prompts):
            tokens = qwen.tokenize(model=model, prompts=prompts)
            tokens["prompt_ids"][:, 5] += 1  # in the part that is dropped after encoding
            return tokens
        """,
        {"text": "prompt_embeds differs from the pipeline's by", "own loop": OWN_LOOP},
    ),
    "another guidance scale": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            return qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call={**call, "true_cfg_scale": 3.9})
        """,
        {"own loop": OWN_LOOP},
    ),
    "guidance forgotten": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            return qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call={**call, "true_cfg_scale": 1.0})
        """,
        {"own loop": OWN_LOOP, "guidance": "the denoiser computes each sample once per step: guidance is off"},
    ),
    "one adapter left out of the forward": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            layer = model.pipe.transformer.transformer_blocks[0].attn.to_q
            layer.forward = layer.base_layer.forward
            return qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call=call)
        """,
        {
            "gradient": r"38 of 48 trained tensors get a gradient; 2 that the velocity depends on get none, "
            r"e.g. transformer\.transformer_blocks\.0\.attn\.to_q\.lora_A\.default\.weight"
        },
    ),
    "a velocity without gradient": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            with torch.no_grad():
                return qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call=call)
        """,
        {"gradient": "no gradient: a hook computes the velocity or the log-prob without gradients"},
    ),
    "a log-prob without gradient": (
        """
        from omni_rl.training import policy as own

        @hookimpl
        def forward_and_sample_previous_step(policy, batch, model_inputs, steps):
            log_prob, *rest = own.forward_and_sample_previous_step(policy, batch, model_inputs, steps)
            return log_prob.detach(), *rest
        """,
        {"gradient": "no gradient"},
    ),
    "a decoder that would train": (
        """
        @hookimpl
        def prepare_encode(model, requests):
            model.pipe.vae.decoder.requires_grad_(True)
            return denoise.prepare_encode(model=model, requests=requests)
        """,
        {"gradient": r"40 of 48 trained tensors get a gradient, and \d+ that are not trained, e.g. vae\.decoder"},
    ),
    "train mode left on": (
        """
        @hookimpl
        def prepare_encode(model, requests):
            model.pipe.transformer.transformer_blocks[1].train()
            return denoise.prepare_encode(model=model, requests=requests)
        """,
        {
            "mode": r"\d+ modules are left in train mode, e.g. transformer\.transformer_blocks\.1: "
            r"call \.eval\(\)"
        },
    ),
    "prompts encoded again in every step": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            with torch.no_grad():
                model.pipe.text_encoder(torch.zeros(1, 3, dtype=torch.long))
            return qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call=call)
        """,
        {"encoders": r"called in replay: \{'text_encoder': \d+\}"},
    ),
    "stored latents rounded to bf16": (
        """
        @hookimpl
        def post_decode(model, state):
            samples = denoise.post_decode(model=model, state=state)
            for sample in samples:
                sample.trajectory["latents", "x", "all"] = sample.trajectory["latents", "x", "all"].bfloat16().float()
            return samples
        """,
        {
            "replay": r"replayed log-probs differ from stored ones by 0\.\d+",
            "clip range": r"0\.0001 is not above the floor",
            "transition": r"mean \+ std \* noise differs from the stored latents by 0\.0",
        },
    ),
    "log-probs stored beside the wrong sample": (
        """
        @hookimpl
        def post_decode(model, state):
            state.recorded.log_probs = state.recorded.log_probs.roll(1, 0)
            return denoise.post_decode(model=model, state=state)
        """,
        {"replay": "replayed log-probs differ from stored ones by", "clip range": "is not above the floor"},
    ),
    "noise from elsewhere than the keys": (
        """
        from dataclasses import replace

        @hookimpl
        def step_scheduler(model, state, velocity):
            known = state.requests
            state.requests = [replace(r, key=replace(r.key, run_seed=r.key.run_seed + 1)) for r in known]
            done = denoise.step_scheduler(model=model, state=state, velocity=velocity)
            state.requests = known
            return done
        """,
        {"transition": r"mean \+ std \* noise differs from the stored latents by \d"},
    ),
    "rows that influence each other": (
        """
        @hookimpl
        def predict(model, x, t, conditioning, call):
            (v,) = qwen.predict(model=model, x=x, t=t, conditioning=conditioning, call=call).values()
            return {"x": v + 0.1 * v.mean(0, keepdim=True)}
        """,
        {
            "own loop": OWN_LOOP,
            "timesteps": "a batch of different timesteps differs from single calls by",
            "replay": r"the log-prob of a sample changes by .* with the other samples in its batch",
            "clip range": "is not above the floor",
            "sensitivity": "not more than rounding",
        },
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_its_row_red(name, assert_red):
    source, sentences = FAULTS[name]
    assert_red(sentences, fault=source)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"true_cfg_scale": 4.0}, r"true_cfg_scale is 4, but .* guidance is off \(add negative_prompt in rollout"),
        ({"negative_prompt": "blurred"}, r"is given, but .* \(set the guidance scale above 1, or negative_prompt"),
    ],
)
@pytest.mark.parametrize("plugin", [None, "universal"])
def test_guidance_that_is_asked_for_and_off(call, sentence, plugin, assert_red):
    call = {"height": 16, "width": 32, "true_cfg_scale": 1.0, **call}
    model = {"plugin": plugin} if plugin else {}
    assert_red({"guidance": sentence}, rollout={"call": call}, model=model)


def test_a_clip_range_that_rounding_drowns(assert_red):
    assert_red({"clip range": r"1e-08 is not above the floor \d\.?\d*e-07"}, algorithm={"clip_range": 1e-8})
    assert_red({"clip range": "1e-08 is not above the floor"}, algorithm={"clip_range": [1e-3, 1e-8]})


def test_steps_without_noise(assert_red, monkeypatch):
    """Their log-probs are 0 whatever the policy does. Nobody may ask for them, but an engine could draw them."""
    monkeypatch.setattr("omni_rl.config.checks.conflicts", lambda *_: ())
    sentence = r"changing the latents by 0.001 changes the log-prob by 0, not more than rounding \(0\)"
    windows = r"the SDE window \[.*\) of iteration 1 has no step with noise, so nothing is learnt from it"
    assert_red({"sensitivity": sentence, "windows": windows}, rollout={"sde": {"noise_level": 0.0}})


def test_a_window_that_may_lie_on_a_step_without_noise(judged):
    """The last step of ``cps`` is deterministic. One window in four lies there alone."""
    place = {"algorithm": {"window_size": 1, "window_range": [0, 4]}, "train": {"iterations": 40}}
    rollout = {"steps": 4, "sde": {"type": "cps", "noise_level": 0.7}}
    found = judged(**place, rollout=rollout)["windows"]
    assert found.verdict == "fail"
    assert "the SDE window [3, 4) of iteration" in found.detail
    place["algorithm"]["window_size"] = 2
    found = judged(**place, rollout=rollout)["windows"]
    assert (found.verdict, found.detail[-3:]) == ("ok", "[3]")


def test_a_pipeline_that_branches_on_the_step(assert_red, judged):
    """Skip-layer guidance is switched on for some of the steps, which a single step cannot know."""
    call = {**pipelines.CALLS["StableDiffusion3Pipeline"], "skip_guidance_layers": [1]}
    steps = {"steps": 8, "call": {**call, "skip_layer_guidance_stop": 0.5}}
    universal = {"plugin": "universal"}
    assert_red({"own loop": OWN_LOOP}, "StableDiffusion3Pipeline", rollout=steps, model=universal)
    never = {"steps": 8, "call": {**call, "skip_layer_guidance_start": 2.0}}
    assert judged("StableDiffusion3Pipeline", rollout=never, model=universal)["own loop"].verdict == "ok"


def test_a_full_weight_that_is_cut_off(assert_red):
    """Full fine-tuning through the universal adapter, one block's input detached."""
    fault = """
        from omni_rl.universal import hooks as universal

        @hookimpl
        def predict(model, x, t, conditioning, call):
            block = model.pipe.transformer.blocks[1].ffn
            if not hasattr(block, "cut"):
                block.cut = block.register_forward_pre_hook(lambda _, args: (args[0].detach(),))
                block.net[2].register_forward_hook(lambda _, args, out: out.detach())
            return universal.predict(model=model, x=x, t=t, conditioning=conditioning, call=call)
    """
    sentence = r"4 that the velocity depends on get none, e.g. transformer\.blocks\.1\.ffn"
    assert_red({"gradient": sentence}, "WanPipeline", fault=fault, model={"lora": None})
