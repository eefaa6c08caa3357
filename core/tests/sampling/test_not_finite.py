"""Samples that are NaN have failed; if all are, the run stops and says so."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rl import hookimpl, train
from omni_rl.contracts.types import NOT_FINITE, SigmaTable
from omni_rl.errors import ModelError, RunError
from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl.sampling.stream import finished_groups
from omni_rl_testing.engine import assembled
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model
from omni_rl_tiny import pipelines


class OneBroken(EmbeddedEngine):
    """The latents of sample 1 are infinite; counts how often it was asked."""

    asked = 0

    def submit(self, requests):
        self.asked += len(requests)
        super().submit(requests)

    def completed(self):
        for sample in super().completed():
            if sample.request.sample_id == 1:
                sample.trajectory["latents", "x", "final"][0, 0, 0] = torch.inf
            yield sample


def test_one_sample_is_missing_and_not_drawn_again():
    parts = assembled(OneBroken, toy_model(), {})
    requests, before = parts.requests(), parts.engine.asked
    samples = [sample for group in finished_groups(parts.engine, requests) for sample in group]
    assert {s.request.sample_id: s.error for s in samples if s.error} == {1: NOT_FINITE}
    assert parts.engine.asked - before == len(requests)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_stop_with_a_sentence(value):
    parts = assembled(EmbeddedEngine, toy_model(), {})
    for parameter in parts.model.parameters().values():
        parameter.data.fill_(value)
    with pytest.raises(RunError, match=r"all 9 samples are NaN or infinite: the model's weights .* are broken"):
        list(finished_groups(parts.engine, parts.requests()))


class NoSchedule:
    """What a scheduler that divides by the number of steps minus one gives for one step."""

    @hookimpl
    def set_timesteps(self, steps, shapes):
        return dict.fromkeys(shapes, SigmaTable(torch.tensor([1000.0]), torch.tensor([torch.nan, 0.0])))


def test_a_schedule_that_is_no_number_is_named():
    parts = assemble(toy_model(), plugin=NoSchedule())
    with pytest.raises(ModelError, match=r"the schedule of .* steps is not finite: \[nan, 0.0\]"):
        parts.draw(parts.requests())


@pytest.mark.parametrize("broken", ["transformer", "vae"])
def test_a_run_without_gate_does_not_end_well(broken, tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("StableDiffusion3Pipeline"), folder)
    (file,) = (folder / broken).glob("*.safetensors")
    save_file({k: v.fill_(torch.nan) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    (tmp_path / "prompts.txt").write_text("hello world\na sign\n")
    config = {
        "model": {"path": str(folder), "lora": {"rank": 2}},
        "algorithm": {"name": "flow_grpo"},
        "rollout": {"steps": 2, "prompts": 1, "group_size": 2, "call": pipelines.CALLS["StableDiffusion3Pipeline"]},
        "reward": "brightness",
        "data": {"path": str(tmp_path / "prompts.txt")},
        "train": {"iterations": 1},
        "device": "cpu",
        "gate": "off",
    }
    with pytest.raises(RunError, match="samples are NaN or infinite"):
        train(config, run_dir=tmp_path / "run")
