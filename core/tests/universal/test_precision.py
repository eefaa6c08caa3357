"""bf16, fp32 masters under autocast, encoders that wait on the CPU: what is stored is fp32 and replays exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_cases import Case, own_loop, still

from omni_rl.model.loading import from_pipe
from omni_rl_tiny import pipelines


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_bf16_trajectories_are_fp32_and_replay_exactly(guided_case: Case, lora):
    assembly = guided_case.fresh(precision="bf16", model={"lora": {"rank": 2, "alpha": 2} if lora else None})
    assembly.nudge()
    batch = assembly.batch()
    stored = batch["latents", "x", "all"]
    assert stored.dtype == batch["log_probs"].dtype == torch.float32
    assert batch["timesteps"].dtype == batch["sigmas"].dtype == torch.float32
    off_grid = stored != stored.bfloat16().float()
    assert off_grid.float().mean() > 0.9, "latents were rounded to bf16"
    ratios = []
    for step in range(batch["timesteps"].shape[1]):
        log_prob = assembly.backend.policy.evaluate(batch, [step])[0].log_prob
        ratios.append((log_prob - batch["log_probs"][:, step]).exp())
    assert torch.equal(torch.stack(ratios), torch.ones(len(ratios), len(batch)))


def test_what_trains_is_fp32_and_the_rest_is_bf16(guided_case: Case):
    for lora in ({"rank": 2}, None):
        model = guided_case.fresh(precision="bf16", model={"lora": lora}).model
        assert {p.dtype for p in model.parameters().values()} == {torch.float32}
        others = {n: {p.dtype for p in m.parameters()} for n, m in model.modules.items() if n not in model.denoisers}
        assert set.union(*others.values()) <= {torch.bfloat16, torch.float32}
        assert others["vae"] == {torch.bfloat16}
        assert model.autocast == (lora is None)


def test_masters_under_autocast_compute_in_bf16(guided_case: Case):
    """Near the fp32 velocity, but not the same: bf16 has 8 bits."""
    exact, low = guided_case.assembly(), guided_case.fresh(precision="bf16", model={"lora": None})
    start, state = own_loop(exact, still(exact))
    t = state.table.timesteps[:1].expand(3)
    call = state.requests[0].call
    velocities = [a.backend.policy.predict(start, t, state.conditioning, call)["x"].detach() for a in (exact, low)]
    scale = float(velocities[0].abs().max())
    gap = float((velocities[0] - velocities[1]).abs().max()) / scale
    assert 1e-5 < gap < 0.1


def test_an_update_moves_the_masters_and_replay_stays_exact(cases):
    assembly = cases("QwenImagePipeline", True).fresh(precision="bf16", model={"lora": None}, train={"lr": 1e-4})
    before = {n: p.detach().clone() for n, p in assembly.model.parameters().items()}
    assembly.backend.update(assembly.batch(), iteration=0)
    moved = [n for n, p in assembly.model.parameters().items() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2
    batch = assembly.batch()
    assert torch.equal(assembly.backend.policy.evaluate(batch, [0])[0].log_prob.detach(), batch["log_probs"][:, 0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offload_changes_nothing(precision, cases):
    case = cases("StableDiffusion3Pipeline", True)
    drawn = []
    for offload in (False, True):
        assembly = case.fresh(precision=precision, offload=offload, model={"lora": {"rank": 2}})
        drawn.append(assembly.draw(assembly.requests()))
    for plain, offloaded in zip(*drawn, strict=True):
        a, b = plain.trajectory, offloaded.trajectory
        keys = list(a.keys(include_nested=True, leaves_only=True))
        assert keys == list(b.keys(include_nested=True, leaves_only=True))
        assert all(torch.equal(a[k], b[k]) for k in keys)


def test_what_stands_between_text_and_denoiser_computes_as_the_denoiser_does(tiny_folder):
    """LTX-2's connectors are frozen in bf16, and are given embeddings in fp32."""
    name = "LTX2Pipeline"
    assembly = Case(name, tiny_folder(name), pipelines.CALLS[name], guided=True).fresh(
        precision="bf16", model={"lora": None}
    )
    batch = assembly.batch()
    assert torch.equal(assembly.backend.policy.evaluate(batch, [0])[0].log_prob.detach(), batch["log_probs"][:, 0])


def test_what_stands_between_text_and_denoiser_does_not_wait_on_the_cpu():
    pipe = pipelines.BUILDERS["LTX2Pipeline"]()
    model = from_pipe(pipe, path=Path("tiny"), device=torch.device("meta"), offload=True)
    waiting = {name for name, module in model.modules.items() if next(module.parameters()).device.type == "cpu"}
    assert waiting == {"text_encoder", "vae", "audio_vae"}
