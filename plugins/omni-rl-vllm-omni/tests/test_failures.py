"""What goes wrong outside of our hands: processes that die, requests that take too long, an engine that won't start."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import psutil
import pytest
import torch

from omni_rl.contracts.requests import Sde
from omni_rl.contracts.spec import RunSpec
from omni_rl.errors import RunError
from omni_rl.plugins.runspec import CORE_HOOKS
from omni_rl.sampling.stream import finished_groups
from omni_rl_vllm_omni import VllmOmniEngine
from omni_rl_vllm_omni.options import VllmOmniConfig

pytestmark = pytest.mark.ci


def workers() -> list[psutil.Process]:
    """Upstream's, below this process."""
    below = psutil.Process().children(recursive=True)
    return [p for p in below if p.is_running() and "DiffusionWorker" in " ".join(p.cmdline())]


@pytest.mark.parametrize("mode", ["required", pytest.param("off", marks=pytest.mark.full)])
def test_a_worker_that_dies_is_replaced(pair, mode):
    """In the middle of an iteration: the same samples of the same draws come back all the same."""
    parts = pair("QwenImagePipeline", step_execution=mode, max_num_seqs=2).parts
    parts.nudge(seed=3)
    parts.sync(0)
    requests = parts.requests()
    undisturbed = {s.request.sample_id: s.trajectory for s in parts.draw(requests)}
    parts.engine.submit(requests)
    coming = parts.engine.completed()
    samples = [next(coming)]
    (worker,) = workers()
    worker.kill()
    samples += coming
    assert sorted(s.request.sample_id for s in samples) == sorted(undisturbed)
    for sample in samples:
        assert sample.error is None
        before = undisturbed[sample.request.sample_id]
        assert torch.equal(sample.trajectory["latents", "x", "all"][0], before["latents", "x", "all"][0])
        for name in ("uid", "sample_id", "policy_version", "timesteps", "sigmas"):
            assert torch.equal(sample.trajectory[name], before[name])
        gap = (sample.trajectory["latents", "x", "final"] - before["latents", "x", "final"]).abs().max()
        assert gap <= 4e-6 * before["latents", "x", "final"].abs().max()
    (successor,) = workers()
    assert successor.pid != worker.pid


def test_a_worker_that_always_dies_ends_the_run(pair, monkeypatch):
    parts = pair("QwenImagePipeline", step_execution="required", max_num_seqs=2).parts
    monkeypatch.setattr("omni_rl_vllm_omni.engine.RESTARTS", 0)
    parts.engine.submit(parts.requests())
    coming = parts.engine.completed()
    next(coming)
    for worker in workers():
        worker.kill()
    with pytest.raises(RunError, match="vLLM-Omni failed 1 times in one rollout"):
        list(coming)
    parts.engine._restart()


def test_requests_that_take_too_long_are_asked_for_again(pair, monkeypatch):
    """With the same keys: what is drawn is what would have been drawn."""
    parts = pair("QwenImagePipeline", step_execution="required", max_num_seqs=2).parts
    requests, attempts, submit = parts.requests()[:3], count(), parts.engine.submit
    undisturbed = parts.draw(requests)

    def hurried(asked):
        parts.engine._server._timeout_s = 600.0 if next(attempts) else 1e-3
        submit(asked)

    monkeypatch.setattr(parts.engine, "submit", hurried)
    again = [sample for group in finished_groups(parts.engine, requests) for sample in group]
    assert next(attempts) == 2
    for a, b in zip(undisturbed, again, strict=True):
        assert (b.error, b.request) == (None, a.request)
        assert (a.trajectory["log_probs"] - b.trajectory["log_probs"]).abs().max() < 1e-6


def test_the_error_of_a_request_is_its_own(pair):
    """The one beside it, in the same batch, is drawn."""
    parts = pair("QwenImagePipeline", step_execution="required", max_num_seqs=2).parts
    good, bad = parts.requests()[:2]
    good, bad = parts.draw([good, replace(bad, sde=Sde(type="nonsense"))])
    assert good.error is None
    assert "nonsense" in bad.error


def test_an_engine_that_does_not_start_says_why(pair, monkeypatch):
    """The message is the one of the process that failed."""
    parts = pair("QwenImagePipeline", step_execution="required", max_num_seqs=2).parts
    monkeypatch.setenv("DIFFUSION_ATTENTION_BACKEND", "FLASH_ATTN")
    context = replace(parts.context, options=VllmOmniConfig(), spec=RunSpec(core=CORE_HOOKS))
    with pytest.raises(RunError, match=r"vLLM-Omni does not start: .*the CPU has the attention backend TORCH_SDPA"):
        VllmOmniEngine(context)
