from __future__ import annotations

import pytest
import torch
from torch import nn

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Lora
from omni_rl.errors import ConfigError, ModelError
from omni_rl.model.adapters import make_trainable
from omni_rl.model.loading import load_model
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model


@pytest.fixture(scope="session")
def folder(tiny_folder):
    return tiny_folder("StableDiffusion3Pipeline")


def loaded(folder, precision: str = "bf16", full: bool = False) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), precision=precision, full=full)


def parts_of(model: LoadedModel, lora: dict | None, **train) -> Parts:
    call = {} if model.architecture == "ToyPipeline" else {"height": 16, "width": 16, "guidance_scale": 1.0}
    rollout = {"steps": 3, "call": call}
    return assemble(model, prompts=("a sign",), rollout=rollout, model={"lora": lora}, train=train)


def test_an_adapter_adds_alpha_over_rank_times_b_a():
    """r = 4, alpha = 16: exactly 4 B A x beside the frozen layer, computed in float64."""
    model = toy_model()
    layer = model.pipe.transformer.inside
    frozen = layer.weight.detach().double(), layer.bias.detach().double()
    make_trainable(model, Lora(rank=4, alpha=16.0), seed=0)
    adapted = model.pipe.transformer.inside
    a, b = (model.parameters()[f"transformer.inside.lora_{name}.default.weight"] for name in "AB")
    assert (a.shape, b.shape) == ((4, 3), (8, 4))
    nn.init.normal_(b, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = x.double() @ (frozen[0] + 4 * b.detach().double() @ a.detach().double()).T + frozen[1]
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_adapters_start_as_nothing():
    untouched, model = toy_model(), toy_model()
    make_trainable(model, Lora(rank=4), seed=3)
    given = torch.randn(2, 3, 4, 4), torch.tensor([1.0, 900.0]), torch.randn(2, 2, 8)
    assert torch.equal(model.pipe.transformer(*given)[0], untouched.pipe.transformer(*given)[0])


def test_adapters_follow_the_seed_and_nothing_else():
    def first(seed: int) -> torch.Tensor:
        torch.rand(7)  # whatever was drawn before
        model = toy_model()
        make_trainable(model, Lora(rank=4), seed=seed)
        return next(iter(model.parameters().values())).detach()

    state = torch.get_rng_state()
    assert torch.equal(first(5), first(5))
    assert not torch.equal(first(5), first(6))
    torch.set_rng_state(state)
    make_trainable(toy_model(), Lora(rank=4), seed=5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("targets", "modules"), [("all-linear", 4), (["inside", "text"], 2), ("outside", 1)])
def test_targets_are_suffixes_of_module_names(targets, modules):
    model = toy_model()
    make_trainable(model, Lora(targets=targets), seed=0)
    trained = {name.split(".lora_")[0] for name in model.parameters()}
    assert len(trained) == modules
    assert len(model.parameters()) == 2 * modules
    frozen = [p for n, p in model.pipe.transformer.named_parameters() if ".lora_" not in n]
    assert not any(p.requires_grad for p in frozen)


def test_a_suffix_is_whole_words():
    """``side`` ends ``inside``, but is not the name of a module."""
    with pytest.raises(ConfigError, match=r"model.lora.targets: no linear module of transformer ends in \['side'\]"):
        make_trainable(toy_model(), Lora(targets=["side"]), seed=0)


def test_dropout_is_refused():
    model = toy_model()
    model.pipe.transformer.drop = nn.Dropout(0.1)
    with pytest.raises(ModelError, match=r"transformer.drop has dropout 0.1"):
        make_trainable(model, None, seed=0)


def test_adapters_of_a_bf16_model_are_fp32_masters(folder):
    """A step of 1e-6 must neither vanish nor be rounded to bf16, whose neighbours of 0.1 lie 5e-4 apart."""
    parts = parts_of(loaded(folder), {"rank": 2, "alpha": 4.0}, lr=1e-6, weight_decay=0.0)
    assert parts.model.pipe.transformer.dtype == torch.bfloat16
    parts.nudge()
    before = {name: p.detach().clone() for name, p in parts.model.parameters().items()}
    assert {p.dtype for p in before.values()} == {torch.float32}
    parts.backend.update(parts.batch(), 0)
    after = {name: p.detach() for name, p in parts.model.parameters().items() if p.grad is not None and p.grad.any()}
    assert len(after) > 0.75 * len(before)  # the model itself does not use the rest
    for name, value in after.items():
        assert float((value - before[name]).abs().max()) == pytest.approx(1e-6, rel=0.1)
        assert not torch.equal(value, value.bfloat16().float()), name


def test_a_fully_trained_bf16_model_has_fp32_masters(folder):
    """All of the denoiser; bf16 is reached through autocast, and frozen encoders are in bf16."""
    parts = parts_of(loaded(folder, full=True), None, lr=1e-6, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in parts.model.parameters().items()}
    assert before.keys() == {f"transformer.{n}" for n, _ in parts.model.pipe.transformer.named_parameters()}
    assert {p.dtype for p in before.values()} == {torch.float32}
    assert parts.model.pipe.text_encoder.dtype == torch.bfloat16
    parts.backend.update(parts.batch(), 0)
    changed = [n for n, p in parts.model.parameters().items() if not torch.equal(p, before[n])]
    assert len(changed) > 0.9 * len(before)
    assert not any(torch.equal(p, p.bfloat16().float()) for n, p in parts.model.parameters().items() if n in changed)


@pytest.mark.parametrize("lora", [{"rank": 2, "alpha": 4.0}, None], ids=["lora", "full"])
def test_gradient_checkpointing_gives_equal_gradients(folder, lora):
    """Recomputed activations are the same numbers; peers lost the gradient of adapters whose inputs need none."""
    calls: list[int] = []
    found = []
    for checkpointing in (False, True):
        model = loaded(folder, "fp32", full=lora is None)
        parts = parts_of(model, lora, gradient_checkpointing=checkpointing, max_grad_norm=1e9)
        parts.nudge()
        batch = parts.batch()
        model.pipe.transformer.transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        parts.backend.update(batch, 0)
        found.append({n: p.grad for n, p in parts.model.parameters().items()})
    assert len(calls) == 3 * batch["timesteps"].shape[1]  # once a step, then once more for backward
    gradients, others = found
    assert all(gradient is not None for gradient in gradients.values())
    assert any(gradient.any() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-8, msg=name)
