"""VeOmni's networks against diffusers' own: same weights, same inputs, the same bits."""

from __future__ import annotations

import sys

import pytest
import torch
from diffusers import DiffusionPipeline, QwenImageTransformer2DModel, WanTransformer3DModel

from omni_rl.authoring.engine import from_pipe
from omni_rl.errors import ConfigError
from omni_rl_veomni import library

pytestmark = pytest.mark.ci


@pytest.fixture
def networks():
    library.load()
    from omni_rl_veomni import networks, sharding

    sharding.set_state(sharding.ParallelState())
    yield networks
    sharding.end()


@pytest.fixture
def loaded(tiny_folder):
    def make(architecture):
        folder = tiny_folder(architecture)
        pipe = DiffusionPipeline.from_pretrained(folder)
        return from_pipe(pipe, path=folder, device=torch.device("cpu"))

    return make


def qwen_inputs(config):
    return {
        "hidden_states": torch.randn(2, 24, config.in_channels),
        "encoder_hidden_states": torch.randn(2, 7, config.joint_attention_dim),
        "encoder_hidden_states_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool(),  # texts of two lengths
        "timestep": torch.tensor([0.9, 0.3]),
        "img_shapes": [[(1, 4, 6)]] * 2,
        "attention_kwargs": {},
    }


def wan_inputs(config):
    return {
        "hidden_states": torch.randn(2, config.in_channels, 3, 4, 6),
        "encoder_hidden_states": torch.randn(2, 7, config.text_dim),
        "timestep": torch.tensor([900.0, 300.0]),
        "attention_kwargs": None,
    }


@pytest.mark.parametrize(
    ("architecture", "inputs"), [("QwenImagePipeline", qwen_inputs), ("WanPipeline", wan_inputs)], ids=["qwen", "wan"]
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_outputs_and_gradients_are_those_of_diffusers(networks, loaded, architecture, inputs, precision):
    theirs = loaded(architecture).pipe.transformer.to(precision).requires_grad_(True)
    own = networks.equal(theirs)
    given = inputs(theirs.config)
    given |= {name: given[name].to(precision) for name in ("hidden_states", "encoder_hidden_states")}
    found = []
    for network in (theirs, own):
        output = network(**given, return_dict=False)[0]
        assert torch.equal(network(**given).sample, output)
        output.square().mean().backward()
        found.append((output, {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}))
        network.zero_grad()
    assert torch.equal(found[0][0], found[1][0])
    assert len(found[0][1]) > 10
    assert found[0][1].keys() == found[1][1].keys()
    assert [n for n, gradient in found[0][1].items() if not torch.equal(gradient, found[1][1][n])] == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler looks at it
@pytest.mark.parametrize(
    ("architecture", "inputs"), [("QwenImagePipeline", qwen_inputs), ("WanPipeline", wan_inputs)], ids=["qwen", "wan"]
)
def test_blocks_compile_without_graph_breaks(networks, loaded, architecture, inputs):
    own = networks.equal(loaded(architecture).pipe.transformer).requires_grad_(True)
    given = inputs(own.config)
    before = own(**given, return_dict=False)[0]
    own.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    output = own(**given, return_dict=False)[0]
    torch.testing.assert_close(output, before)
    output.square().mean().backward()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_weights_and_buffers_are_shared(networks, loaded, precision):
    theirs = loaded("WanPipeline").pipe.transformer.to(precision)
    own = networks.equal(theirs)
    places = [[(n, t.data_ptr(), t.dtype) for n, t in net.named_parameters()] for net in (theirs, own)]
    assert places[0] == places[1]
    buffers = [[(n, t.data_ptr(), t.dtype) for n, t in net.named_buffers()] for net in (theirs, own)]
    assert buffers[0]
    assert buffers[0] == buffers[1]


def test_diffusers_own_classes_stay_as_they_are(networks, loaded):
    before = QwenImageTransformer2DModel.forward, WanTransformer3DModel.forward
    for architecture in ("QwenImagePipeline", "WanPipeline"):
        networks.use(loaded(architecture))
    assert before == (QwenImageTransformer2DModel.forward, WanTransformer3DModel.forward)
    assert "veomni" not in before[1].__module__


def test_the_pipeline_draws_the_same_pictures(networks, loaded):
    model = loaded("QwenImagePipeline")
    call = {"prompt": "a card", "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "pt"}

    def draw():
        return model.pipe(**call, generator=torch.Generator().manual_seed(0)).images

    before = draw()
    networks.use(model)
    assert type(model.pipe.transformer) is networks.QwenImage
    assert torch.equal(draw(), before)


def test_an_architecture_that_veomni_has_not_is_refused(networks, loaded):
    with pytest.raises(ConfigError, match=r"no network for FluxTransformer2DModel.*\n.*set train.backend: torch"):
        networks.use(loaded("FluxPipeline"))


def test_uneven_copies_are_refused(networks, loaded, monkeypatch):
    from omni_rl_veomni import sharding

    monkeypatch.setattr(sharding, "world_size", lambda: 4)
    with pytest.raises(ConfigError, match=r"train\.replicas: 4 processes cannot be divided into 3 equal groups"):
        sharding.begin(loaded("WanPipeline"), 3)


def test_without_veomni_a_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "veomni"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "veomni", None)
    with pytest.raises(ConfigError, match=r"VeOmni cannot be imported.*\n.*pip install veomni"):
        library.load()
