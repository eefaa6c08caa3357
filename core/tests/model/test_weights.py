"""What a sync sends: everything that trains, by name, in portions."""

from __future__ import annotations

import pytest
import torch

from omni_rl.model.weights import load, packed, portions, unpacked, weight_names, weights
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import toy_model


def parts(rank):
    found = assemble(toy_model(), model={"lora": rank and {"rank": rank, "alpha": 3.0 * rank}})
    found.nudge()
    return found


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "adapters"])
def test_every_trained_parameter_is_in_one_of_the_weights_that_are_sent(rank):
    model = parts(rank).model
    sent = [name for name, _ in weights(model, "merged")]
    assert sent == weight_names(model, "merged")
    inside = {f"{name.partition('.lora_')[0]}.weight" if rank else name for name in model.parameters()}
    assert set(sent) == inside


def test_merged_weights_are_what_the_layers_compute_with():
    """alpha is three times the rank."""
    model = parts(2).model
    (component, denoiser), *_ = model.denoisers.items()
    for name, weight in weights(model, "merged"):
        layer = denoiser.get_submodule(name.removeprefix(f"{component}.").removesuffix(".weight"))
        x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(0))
        own = layer(x) - (0 if layer.base_layer.bias is None else layer.base_layer.bias)
        torch.testing.assert_close(x @ weight.T, own, rtol=1e-5, atol=1e-5)


def test_adapters_carry_their_scale_in_b():
    model = parts(2).model
    sent = dict(weights(model, "adapter"))
    assert list(sent) == weight_names(model, "adapter")
    for name, parameter in zip(sent, model.parameters().values(), strict=True):
        scale = 3.0 if "lora_B" in name else 1.0
        torch.testing.assert_close(sent[name], parameter.detach() * scale)
    assert {value.dtype for value in sent.values()} == {torch.float32}


@pytest.mark.parametrize(("rank", "form"), [(None, "merged"), (2, "adapter")])
def test_an_equal_model_takes_them(rank, form):
    """Every one, and its weights are then the same to rounding."""
    ours, other = parts(rank).model, parts(rank).model
    for parameter in other.parameters().values():
        parameter.data = parameter.data + 0.5
    landed = load(other, weights(ours, form))
    assert list(landed) == weight_names(ours, form)
    for name, parameter in ours.parameters().items():
        torch.testing.assert_close(other.parameters()[name], parameter)


def test_tensors_travel_as_safetensors():
    tensors = {"a/b": torch.randn(3, 2).T, "c": torch.arange(3), "d": torch.tensor(True)}
    back = unpacked(packed(tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_portions_hold_everything_once_in_order():
    weights = {str(i): torch.zeros(n) for i, n in enumerate((1, 2, 50, 3, 4))}  # 4 bytes each
    parts = list(portions(weights.items(), most=16))
    assert [list(part) for part in parts] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert [name for part in parts for name in part] == list(weights)
