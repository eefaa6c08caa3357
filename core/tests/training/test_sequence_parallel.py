"""Two ranks that share each sample: samples, log-probs and gradients are those of one rank."""

from __future__ import annotations

from typing import Any

import pytest
import ranks
import torch
from rank_jobs import LORA, UNCLIPPED, Jobs, Outcome, assert_as_alone, assert_equal_on_ranks, moved
from safetensors.torch import load_file

from omni_rl.contracts.schema import Train
from omni_rl.errors import ConfigError
from omni_rl.training import sequence
from omni_rl_tiny import pipelines

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("sequence_parallel")]  # the processes start once

PLUGINS = {"QwenImagePipeline": "omni_rl_qwen_image", "WanPipeline": "omni_rl_wan"}
CALL = {"QwenImagePipeline": pipelines.CALLS["QwenImagePipeline"], "WanPipeline": pipelines.CALLS["WanPipeline"]}
ULYSSES, RING = {"ulysses": 2}, {"ring": 2}


class SharedJobs(Jobs):
    """Jobs in which both ranks have the same rows."""

    def alone(self, name: str) -> Outcome:
        """The same job in this process."""
        if name not in self.done_alone:
            job = self.jobs[self.numbers[name]]
            train = {k: v for k, v in job["train"].items() if k != "sequence_parallel"}
            rows = ranks.restored(load_file(self.folder / f"{job['batch']}.0.safetensors"))
            done = ranks.trained({**job, "train": train}, ranks.parts_of({**job, "train": train}), rows)
            self.done_alone[name] = Outcome(done["said"], done["tensors"])
        return self.done_alone[name]


def cases() -> dict[str, dict[str, Any]]:
    """Jobs by name: the architecture, and what differs from the others."""
    found = {}
    for architecture in PLUGINS:
        short = architecture.removesuffix("Pipeline")
        for lora, sharding in [(True, "replicated"), (False, "replicated"), (False, "sharded")]:
            name = f"{short}-{'lora' if lora else 'full'}-{sharding}"
            options = {"sharding": sharding, "gradient_checkpointing": sharding == "sharded"}
            found[name] = {"architecture": architecture, "lora": lora, "options": options, "shared": ULYSSES}
    found["Wan-ring"] = {**found["Wan-full-replicated"], "shared": RING}
    found["Wan-ring-sharded"] = {**found["Wan-full-sharded"], "shared": RING}
    return found


@pytest.fixture(scope="module")
def jobs(tiny_folder, tmp_path_factory) -> SharedJobs:
    """All jobs of this module, done by two ranks."""
    made = SharedJobs(tmp_path_factory.mktemp("ranks"))
    for name, case in cases().items():
        architecture, lora = case["architecture"], case["lora"]
        key = f"{architecture}-{lora}"
        start = made.folder / f"{key}.safetensors"
        job = {"plugin": PLUGINS[architecture], "folder": str(tiny_folder(architecture)), "call": CALL[architecture]}
        job |= {"updates": 0, "lora": LORA if lora else None, "batch": key, "measure": True}
        if not start.exists():
            batch = moved(job, start).batch()
            made.batch(key, [batch, batch])
        train = {**UNCLIPPED, **case["options"], "sequence_parallel": case["shared"]}
        made.add(name, **job, load=str(start), iterations=2, train=train)
    made.run()
    return made


@pytest.mark.parametrize("name", cases())
def test_two_ranks_that_share_samples_train_as_one(jobs, name):
    assert_equal_on_ranks(jobs, name)
    assert_as_alone(jobs, name)


@pytest.mark.parametrize("name", cases())
def test_samples_and_log_probs_are_those_of_one_rank(jobs, name):
    alone, one = jobs.alone(name).tensors, jobs.outcomes(name)[0].tensors
    for key in (k for k in alone if k.startswith(("drawn/", "log_probs/"))):
        if alone[key].is_floating_point():
            torch.testing.assert_close(one[key], alone[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", cases())
def test_a_block_sees_half_of_the_tokens(jobs, name):
    alone, one = jobs.alone(name).tensors, jobs.outcomes(name)[0].tensors
    assert torch.equal(2 * one["tokens/seen"], alone["tokens/seen"])


def test_the_texts_of_a_case_are_padded(jobs):
    """Their numbers of tokens are odd: two ranks can share them only with padding, which is masked."""
    rows = ranks.restored(load_file(jobs.folder / "QwenImagePipeline-True.0.safetensors"))
    assert rows["prompt_embeds"].shape[1] % 2 == 1


def refused(denoiser: torch.nn.Module, device: str = "cpu", **train: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        sequence._check("transformer", denoiser, Train(**train), torch.device(device))
    return str(raised.value)


def test_what_cannot_be_divided_is_refused():
    qwen = pipelines.BUILDERS["QwenImagePipeline"]().transformer
    plain = torch.nn.Linear(2, 2)
    assert "how to divide the sequence of Linear" in refused(plain, sequence_parallel=ULYSSES)
    assert "set train.compile: false" in refused(qwen, sequence_parallel=ULYSSES, compile=True)
    assert "3 ranks cannot share 2 heads" in refused(qwen, sequence_parallel={"ulysses": 3})
    assert "on the device cpu" in refused(qwen, sequence_parallel=RING)
    sequence._check("transformer", qwen, Train(sequence_parallel=RING), torch.device("cuda"))


def test_reasons_are_told():
    assert "in equal parts" in str(sequence._told("transformer", 2, "must be divisible by mesh size"))
    assert "masks the padding" in str(sequence._told("transformer", 2, "`attn_mask` is not supported for it"))
    assert sequence._told("transformer", 2, "something else") is None


@pytest.mark.parametrize("given", ["mask", "no mask"])
def test_padding_is_masked(given):
    class Denoiser(torch.nn.Module):
        def forward(self, hidden_states, encoder_hidden_states, encoder_hidden_states_mask=None):
            return encoder_hidden_states, encoder_hidden_states_mask

    denoiser = Denoiser()
    denoiser.register_forward_pre_hook(sequence._text_padding(denoiser, 4), with_kwargs=True)
    mask = torch.tensor([[1, 0, 1, 1, 1]]).bool() if given == "mask" else None
    text, found = denoiser(torch.zeros(1), torch.ones(1, 5, 2), mask)
    assert text.sum() == 10
    assert text.shape == (1, 8, 2)
    expected = [1, 0, 1, 1, 1] if given == "mask" else [1] * 5
    assert found.tolist() == [[bool(value) for value in [*expected, 0, 0, 0]]]
    even, unmasked = denoiser(torch.zeros(1), encoder_hidden_states=torch.ones(1, 4, 2))
    assert even.shape[1] == 4
    assert unmasked is None
