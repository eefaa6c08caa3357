"""Healthy runs pass, the gate leaves no trace in them, and its three settings do what they say."""

from __future__ import annotations

import pytest
import torch
import toy_two_streams
from model_cases import REPRESENTATIVES

from omni_rl.config.resolve import resolve
from omni_rl.contracts.events import State
from omni_rl.contracts.verdicts import Row, raise_on_failure, table
from omni_rl.errors import GateError
from omni_rl.gate import run_gate
from omni_rl.gate.probe import draw
from omni_rl.run.assembly import assemble
from omni_rl.run.start import train
from omni_rl.run.subject import subject_of
from omni_rl.universal import prompt_outputs
from omni_rl_tiny import pipelines

JUDGED = {
    "schedule",
    "text",
    "own loop",
    "timesteps",
    "replay",
    "clip range",
    "windows",
    "transition",
    "pairing",
    "media",
    "sensitivity",
    "encoders",
    "mode",
    "gradient",
    "weights",
    "rewards",
}
TOLD = {"guidance", "geometry", "memory", "time"}

FROZEN_ROW = """
from omni_rl.contracts.requests import Request

@hookimpl
def prepare_condition(requests):
    mask = torch.ones(len(requests), 1, 4, 1)
    mask[:, :, 0] = 0
    return {"mask/x": mask}
"""


def assert_healthy(rows: dict[str, Row]) -> None:
    verdicts = {name: row.verdict for name, row in rows.items() if name != "solver"}  # where the pipeline has one
    assert verdicts == {**dict.fromkeys(JUDGED, "ok"), **dict.fromkeys(TOLD, "info")}, table(list(rows.values()))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("architecture", "plugin"), [("QwenImagePipeline", None), *((a, "universal") for a in REPRESENTATIVES)]
)
def test_every_architecture(architecture, plugin, lora, judged):
    rows = judged(architecture, model={"plugin": plugin, "lora": {"rank": 2} if lora else None})
    assert_healthy(rows)
    assert rows["replay"].detail.startswith("replayed log-probs differ from stored ones by 0, in micro-batches by 0;")
    assert rows["own loop"].detail == "without SDE noise, latents differ from the pipeline's own loop by 0"
    passes = "once" if architecture == "FluxPipeline" else "2 times"
    assert f"computes each sample {passes} per step" in rows["guidance"].detail


@pytest.mark.ci
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", list(REPRESENTATIVES))
def test_every_architecture_in_bf16(architecture, lora, judged):
    assert_healthy(judged(architecture, model={"lora": {"rank": 2} if lora else None}, precision="bf16"))


def test_two_streams_and_frozen_elements(judged, monkeypatch, tmp_path):
    toy_two_streams.register(monkeypatch)
    folder = toy_two_streams.build(tmp_path / "two-streams")
    call = {**toy_two_streams.CALL, "keep_first_row": True}
    sections = {"model": {"path": str(folder)}, "reward": "jpeg_compressibility"}
    assert_healthy(judged(fault=FROZEN_ROW, rollout={"call": call}, **sections))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_two_experts(lora, judged, tmp_path):
    """Each gets its gradient at its own end of the schedule, although the window lies at one end."""
    folder = pipelines.build("WanPipeline-two-experts", tmp_path / "experts")
    call = {**pipelines.CALLS["WanPipeline"], "guidance_scale_2": 3.0}
    model = {"path": str(folder), "plugin": "universal", "lora": {"rank": 2} if lora else None}
    window = {"window_size": 1, "window_range": [0, 1]}
    rows = judged("WanPipeline", model=model, rollout={"steps": 4, "call": call}, algorithm=window)
    assert_healthy(rows)
    assert rows["gradient"].detail == f"{104 if lora else 138} of {104 if lora else 138} trained tensors get a gradient"


@pytest.mark.parametrize("architecture", ["QwenImagePipeline", "WanPipeline"])
def test_windows_that_differ_between_groups(architecture, configure):
    """Samples are drawn at one timestep and replayed beside samples of another."""
    algorithm = {"window_size": 1, "window_scope": "group"}
    config = configure(architecture, algorithm=algorithm, rollout={"steps": 5}, seed=1)
    run = assemble(resolve(config))
    subject = subject_of(run, State())
    starts = {r.window.start for r in draw(subject).requests}
    rows = {row.name: row for row in run_gate(subject)}
    run.built.close()
    assert len(starts) == 2
    assert_healthy(rows)


def test_micro_batches_and_engine_batches_of_other_sizes(judged):
    assert_healthy(judged(train={"micro_batch_size": 1}, rollout={"batch_size": 4}))


def test_one_prompt_and_two_samples(judged):
    assert_healthy(judged(rollout={"prompts": 1, "group_size": 2, "batch_size": 1}))


def test_prompts_of_equal_length(judged, tmp_path):
    (tmp_path / "equal.txt").write_text("a sign that says 7\na sign that says 8\n")
    assert_healthy(judged(data={"path": str(tmp_path / "equal.txt")}, model={"plugin": "universal"}))


def test_offload_and_gradient_checkpointing(judged):
    assert_healthy(judged("StableDiffusion3Pipeline", train={"offload": True, "gradient_checkpointing": True}))


def test_an_algorithm_that_stores_no_steps(judged):
    fault = """
        from omni_rl.contracts.requests import NO_STEPS

        @hookimpl
        def sde_window():
            return NO_STEPS
    """
    rows = judged(fault=fault)
    assert {n for n, r in rows.items() if r.verdict == "fail"} == set()
    assert rows["replay"].detail == "this algorithm stores no log-probs"
    assert {"clip range", "windows", "transition", "sensitivity", "encoders"} & rows.keys() == set()
    assert rows["gradient"].verdict == rows["weights"].verdict == rows["own loop"].verdict == "ok"


def test_a_loop_that_is_replaced_is_told(judged):
    fault = """
        @hookimpl
        def diffuse(model, requests):
            return denoise.diffuse(model=model, requests=requests)

        diffuse.reason = "for the sake of it"
    """
    rows = judged(fault=fault)
    assert rows["loop"].verdict == "info"
    assert rows["loop"].detail.startswith("core's denoising loop is replaced: for the sake of it (")
    assert {n for n, r in rows.items() if r.verdict == "fail"} == set()


def test_a_plugin_for_what_the_pipeline_cannot_say(judged):
    """A model whose prompts only its plugin can encode is compared as far as that goes."""
    fault = """
        from omni_rl.universal import prompt_outputs

        def unnamed(*_):
            raise prompt_outputs.ModelError("its outputs cannot be passed back")

        prompt_outputs.assigned_names = unnamed
    """
    names = prompt_outputs.assigned_names
    try:
        rows = judged(fault=fault)
    finally:
        prompt_outputs.assigned_names = names
    assert rows["own pipeline"].verdict == "info"
    assert rows["own pipeline"].detail == "not comparable: its outputs cannot be passed back"
    assert {n for n, r in rows.items() if r.verdict == "fail"} == set()
    assert rows["timesteps"].verdict == "ok"


# --------------------------------------------------------------------------------------- no trace, three settings


def test_the_gate_leaves_the_run_as_it_was(configure):
    run = assemble(resolve(configure(train={"ema": {"decay": 0.9}})))
    everything = {f"{c}.{n}": v for c, m in run.model.modules.items() for n, v in m.state_dict().items()}
    before = {n: v.clone() for n, v in everything.items()}
    named = {k: {n: v.clone() for n, v in values.items()} for k, values in run.backend.policy.named.items()}
    random = torch.random.get_rng_state()
    run_gate(subject_of(run, State()))
    after = {f"{c}.{n}": v for c, m in run.model.modules.items() for n, v in m.state_dict().items()}
    assert all(torch.equal(after[n], v) for n, v in before.items())
    kept = run.backend.policy.named
    assert all(torch.equal(kept[k][n], v) for k, values in named.items() for n, v in values.items())
    assert all(p.grad is None for m in run.model.modules.values() for p in m.parameters())
    assert set(run.backend.policy.parameters) == set(run.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    run.built.close()


@pytest.mark.parametrize("architecture", ["QwenImagePipeline", "StableDiffusion3Pipeline"])
def test_training_is_the_same_with_and_without_it(architecture, configure, tmp_path):
    """Windows differ between groups, so that the adapter has to find out what the pipeline takes by itself."""
    metrics = []
    for gate in ("on", "off"):
        config = configure(
            architecture,
            gate=gate,
            model={"plugin": "universal"},
            algorithm={"window_size": 1, "window_scope": "group"},
            train={"iterations": 2},
            validation={"prompts": 1},
        )
        run = train(config, run_dir=tmp_path / gate)
        metrics.append([{k: v for k, v in row.items() if not k.startswith(("time/", "perf/"))} for row in run.metrics])
        assert bool(run.gate) == (gate == "on")
    assert metrics[0] == metrics[1]


CONSTANT = """
OMNI_RL = {"rewards": {"constant": type("Constant", (), {
    "scope": "sample", "score": lambda self, batch: [0.5] * len(batch.media)})}}
"""


def test_on_refuses_before_anything_is_written(configure, tmp_path):
    with pytest.raises(GateError) as raised:
        train(configure(fault=CONSTANT, reward="constant"), run_dir=tmp_path / "run")
    message = str(raised.value)
    assert "the gate stops this run because 1 of 20 checks failed:" in message
    assert "rewards: all 6 samples have the reward 0.5: there is no signal to learn from" in message
    assert "set `gate: warn` to train anyway" in message
    assert not (tmp_path / "run").exists()


def test_warn_trains_all_the_same_and_off_does_not_look(configure, tmp_path):
    for gate, failing in (("warn", ["rewards"]), ("off", [])):
        config = configure(fault=CONSTANT, reward="constant", gate=gate, train={"iterations": 1})
        run = train(config, run_dir=tmp_path / gate)
        assert [row.name for row in run.gate if row.verdict == "fail"] == failing
        assert len(run.metrics) == 1
        assert (tmp_path / gate).exists()


def test_a_table_of_rows_is_readable():
    rows = [Row("a", "ok", "fine"), Row("longer", "fail", "one is off"), Row("b", "info", "two")]
    assert table(rows).splitlines() == ["  ok    a       fine", "  FAIL  longer  one is off", "  -     b       two"]
    with pytest.raises(GateError, match="1 of 3 checks failed:\n  longer: one is off"):
        raise_on_failure(rows)
    raise_on_failure(rows[:1])
