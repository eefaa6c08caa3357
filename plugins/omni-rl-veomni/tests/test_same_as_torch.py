"""The backend ``veomni`` on one rank does what the backend ``torch`` does, bit for bit, from samples to checkpoint."""

from __future__ import annotations

import pytest
import torch

from omni_rl.authoring.backend import TorchBackend
from omni_rl.authoring.engine import from_pipe
from omni_rl_testing.parts import assemble
from omni_rl_veomni import VeOmniBackend

pytestmark = pytest.mark.ci

VIDEO = {"height": 16, "width": 16, "num_frames": 5}
CALLS = {"QwenImagePipeline": {"height": 16, "width": 16}, "WanPipeline": VIDEO, "WanPipeline-two-experts": VIDEO}
LORA = {"rank": 2, "alpha": 4.0}


@pytest.fixture
def parts(tiny_folder):
    """``parts(backend, architecture, lora, **train)``, with weights that are the same for every backend."""
    from diffusers import DiffusionPipeline

    made = []

    def make(backend, architecture, lora=None, **train):
        folder = tiny_folder(architecture)
        model = from_pipe(DiffusionPipeline.from_pretrained(folder), path=folder, device=torch.device("cpu"))
        sections = {"model": {"lora": lora}, "rollout": {"call": CALLS[architecture]}, "train": {"lr": 1e-2, **train}}
        made.append(assemble(model, backend=backend, **sections))
        made[-1].nudge()
        made[-1].sync()
        return made[-1]

    yield make
    for each in made:
        each.close()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", sorted(CALLS))
def test_samples_updates_and_checkpoints_are_equal(parts, architecture, lora):
    torch_, veomni = (parts(backend, architecture, lora) for backend in (TorchBackend, VeOmniBackend))
    assert {type(network).__module__ for network in veomni.model.denoisers.values()} == {"omni_rl_veomni.networks"}
    batches = [each.batch() for each in (torch_, veomni)]
    assert torch.equal(batches[0]["log_probs"], batches[1]["log_probs"])
    before = torch_.trained()
    figures = [each.backend.update(batches[0], 0) for each in (torch_, veomni)]
    assert figures[0] == figures[1]
    assert figures[0]["actor/grad_norm"] > 0
    states = [each.backend.state() for each in (torch_, veomni)]
    assert states[0][1] == states[1][1]
    assert equal(states[0][0], states[1][0])
    assert not equal(torch_.trained(), before)

    resumed = parts(VeOmniBackend, architecture, lora)  # a checkpoint of one backend, with the other
    resumed.backend.load_state(*states[0])
    assert resumed.backend.update(batches[0], 1) == torch_.backend.update(batches[0], 1)
    assert equal(resumed.backend.state()[0], torch_.backend.state()[0])


def test_gradient_checkpointing_changes_nothing(parts):
    for architecture in CALLS:
        plain, saving = (parts(VeOmniBackend, architecture, gradient_checkpointing=saved) for saved in (False, True))
        assert saving.model.pipe.transformer.is_gradient_checkpointing
        batch = plain.batch()
        assert plain.backend.update(batch, 0) == saving.backend.update(batch, 0)
        assert equal(plain.trained(), saving.trained())
