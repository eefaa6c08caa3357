"""A run whose weights do not fit is refused before they are loaded; the gate's row tells what they need."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omni_rl.config.resolve import resolve
from omni_rl.errors import ConfigError
from omni_rl.run import memory
from omni_rl.run.start import check, resume, train
from omni_rl.training import sharding
from omni_rl_tiny import pipelines

QWEN = "QwenImagePipeline"


@pytest.fixture
def config(tiny_folder, tmp_path) -> dict[str, Any]:
    (tmp_path / "prompts.txt").write_text("a sign that says 7\nhello world\n")
    return {
        "model": {"path": str(tiny_folder(QWEN))},
        "algorithm": {"name": "flow_grpo"},
        "rollout": {"steps": 3, "prompts": 2, "group_size": 2, "call": pipelines.CALLS[QWEN]},
        "reward": "brightness",
        "data": {"path": str(tmp_path / "prompts.txt")},
        "train": {"iterations": 1},
        "device": "cpu",
    }


@pytest.fixture
def card(monkeypatch):
    """``card(bytes, ranks)``: the run has GPUs of this size."""

    def put(size: int, ranks: int = 1) -> None:
        monkeypatch.setattr(memory, "pick_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(memory, "card_memory", lambda device: size)
        for module in (memory, sharding):
            monkeypatch.setattr(module, "world_size", lambda: ranks)
        monkeypatch.setattr(memory, "local_world_size", lambda: ranks)

    return put


def told(config: dict[str, Any], *overrides: str) -> str:
    sentence = memory.memory_ahead(resolve(config, overrides))
    assert sentence is not None
    return sentence


def refused(config: dict[str, Any], *overrides: str) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(ConfigError) as error:
        memory.memory_ahead(resolve(config, overrides))
    return str(error.value).splitlines()


def test_check_and_resume_refuse_before_weights_are_loaded(config, card, monkeypatch, tmp_path):
    rows = {row.name: row.detail for row in check(config)}
    assert "of weights, gradients and moments in memory, of " in rows["memory"]
    train(config, run_dir=tmp_path / "run")
    card(1000)
    monkeypatch.setattr("omni_rl.run.assembly.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r"the weights of this run need .* on the GPU of 0.0 MB: masters"):
        check(config)
    with pytest.raises(ConfigError, match="the weights of this run need"):
        resume(tmp_path / "run", ["train.iterations=2"])


def test_the_refusal_lists_what_helps_with_what_it_leaves(config, card):
    """Each proposal is followed alone, and the run then needs as much as it said."""
    card(10**12)
    whole = told(config, "train.ema.decay=0.9").split(" of weights")[0]
    card(600_000)
    first, *hints = refused(config, "train.ema.decay=0.9")
    assert f"need {whole} on the GPU of 0.6 MB: masters " in first
    assert "copy ema" in first
    assert "encoders and VAE" in first
    proposals = dict(line.strip().removesuffix(")").rsplit(" (", 1) for line in hints[1:])
    assert {text.split("=")[0] for text in proposals} >= {"train.offload", "model.lora.rank", "train.ema"}
    card(10**12)
    for text, leaves in proposals.items():
        if not text.startswith("launcher"):
            given = [] if text == "train.ema=null" else ["train.ema.decay=0.9"]
            assert told(config, *given, *text.split()).startswith(leaves), text


def test_more_gpus_are_proposed_if_sharded_weights_fit_there(config, card):
    card(10**12, ranks=8)
    on_eight = told(config, "train.sharding=sharded")
    size = float(on_eight.split(" MB")[0])
    assert "on each of 8 GPUs of 1,000.0 GB" in on_eight
    card(int((size + 0.1) * 1e6), ranks=2)
    lines = refused(config, "train.sharding=replicated")
    assert "on each of 2 GPUs" in lines[0]
    proposal = "launcher.name=torchrun launcher.processes=8 train.sharding=sharded"
    assert f"  {proposal} ({size:.1f} MB)" in lines
    assert any(line.startswith("  train.sharding=sharded (") for line in lines)


def test_adapters_are_proposed_bf16(config, card):
    card(1000)
    assert any(line.startswith("  precision=bf16 (") for line in refused(config, "model.lora.rank=2"))


def test_more_than_the_memory_of_the_machine_is_a_warning(config, card, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    with pytest.warns(UserWarning, match="the run needs .* MB in the memory of this machine, which has 0.0 MB"):
        assert "in memory, of 0.0 MB of this machine" in told(config)
    card(10**12, ranks=2)
    with pytest.warns(UserWarning, match="the run needs"):
        assert "in the memory of this machine" in told(config, "train.offload=true")


def test_nothing_is_told_of_a_backend_that_holds_its_weights_otherwise(config, monkeypatch):
    resolved = resolve(config)
    monkeypatch.setattr(memory, "TorchBackend", type("Other", (), {}))
    assert memory.memory_ahead(resolved) is None


def test_the_memory_of_this_machine_is_known():
    found = memory.machine_memory()
    assert found is None or found > 10**8
    assert memory.gigabytes(41_200_000_000) == "41.2 GB"


@pytest.mark.parametrize("replicas", [3, 4])
def test_copies_that_cannot_be_spread_are_refused(config, card, replicas):
    card(10**9, ranks=2)
    first, hint = refused(config, "train.sharding=sharded", f"train.replicas={replicas}")
    assert first == f"train.replicas: 2 processes cannot be divided into {replicas} equal groups"
    assert hint.strip() == "set it to a divisor of 2"


@pytest.mark.parametrize(("sharding", "replicas"), [("replicated", 4), ("sharded", 2)])
def test_the_refusal_proposes_one_copy(config, card, sharding, replicas):
    """In place of copies that the run does not have, or that each take as much as one GPU has."""
    card(1000, ranks=2)
    ways = refused(config, f"train.sharding={sharding}", f"train.replicas={replicas}")
    assert any(way.strip().startswith("train.sharding=sharded train.replicas=1 (") for way in ways)
