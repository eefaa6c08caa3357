"""What the weights need, told from files, is what a run holds after an update."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline
from torch.testing._internal.distributed.fake_pg import FakeStore

from omni_rl.contracts.schema import Lora
from omni_rl.model.adapters import make_trainable
from omni_rl.model.encoder_sizes import encoder_sizes
from omni_rl.model.loading import load_model
from omni_rl.parallel.whole import own_part
from omni_rl.training.memory import Holding, Need, need
from omni_rl.training.sharding import shard

LORA = {"rank": 4, "alpha": 4.0, "targets": ["to_q", "to_v"]}


def bytes_of(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def device_parts(found: Need | None) -> dict[str, int]:
    assert found is not None
    return {part.name: part.device for part in found.parts}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # Wan's norms in bf16
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["QwenImagePipeline", "WanPipeline", "StableDiffusion3Pipeline"])
def test_one_rank_holds_what_was_told(cases, architecture, lora, precision):
    """Wan's norms stay in fp32 in bf16. SD3 stores a table of positions; weights that get no gradient are counted."""
    case = cases(architecture, False)
    parts = case.fresh(precision=precision, model={"lora": lora}, train={"ema": {"decay": 0.9}})
    parts.backend.update(parts.batch(), 0)
    told = device_parts(need(case.folder, Holding(1, precision, Lora(**lora) if lora else None, ("ema",))))
    model, trained = parts.model, parts.model.parameters()
    others = [module for name, module in model.modules.items() if name not in model.denoisers]
    state, _ = parts.backend.state()
    without = bytes_of(p for p in trained.values() if p.grad is None)
    tensors = [t for d in model.denoisers.values() for t in (*d.parameters(), *d.buffers())]
    assert told["frozen weights"] == bytes_of(t for t in tensors if not t.requires_grad)
    assert told["masters"] == bytes_of(trained.values())
    assert told["copy ema"] == bytes_of(parts.backend.policy.named["ema"].values())
    assert told["gradients"] == bytes_of(p.grad for p in trained.values() if p.grad is not None) + without
    moments = bytes_of(t for n, t in state.items() if n.startswith("optimizer/") and not n.endswith("/step"))
    assert told["moments"] == moments + 2 * without
    stored = bytes_of(t for m in others for n, t in m.state_dict().items())
    assert bytes_of(p for m in others for p in m.parameters()) <= told["encoders and VAE"] <= stored


@pytest.mark.parametrize("architecture", ["QwenImagePipeline", "SanaPipeline"])
def test_offloaded_parts_are_in_the_memory_of_the_machine(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    model = load_model(folder, device=torch.device("cpu"), precision="bf16", full=True, offload=True)
    kept, moved = (need(folder, Holding(1, "bf16", None, offload=offload)) for offload in (False, True))
    assert kept is not None
    assert moved is not None
    encoders = bytes_of(p for m in model.offloaded.values() for p in m.parameters())
    assert moved.host == encoders + device_parts(kept)["moments"]
    largest = max(part.at_times for part in moved.parts)
    assert kept.host == 0
    assert moved.device == sum(device_parts(moved).values()) + largest


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_rank_holds_the_rows_that_fsdp_gives_it(tiny_folder, lora):
    """Rank 0 of three has the most rows. While sharded weights compute, one block and what is outside are whole."""
    folder, adapters = tiny_folder("WanPipeline"), Lora(**lora) if lora else None
    model = load_model(folder, device=torch.device("cpu"), precision="fp32", full=lora is None)
    make_trainable(model, adapters, 0)
    named = [(n, p.nbytes) for d in model.denoisers.values() for n, p in d.named_parameters()]
    blocks: dict[str, int] = {}
    for name, size in named:
        key = ".".join(name.split(".")[:2]) if name.startswith("blocks.") else "outside"
        blocks[key] = blocks.get(key, 0) + size
    outside = blocks.pop("outside")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=3)
    try:
        shard(model)
        own = bytes_of(own_part(p) for p in model.parameters().values())
        everything = bytes_of(own_part(p) for d in model.denoisers.values() for p in d.parameters())
    finally:
        dist.destroy_process_group()
    buffers = bytes_of(b for d in model.denoisers.values() for b in d.buffers())
    found = need(folder, Holding(3, "fp32", adapters, ("reference",)))
    told = device_parts(found)
    assert told["masters"] == told["gradients"] == told["copy reference"] == told["moments"] // 2 == own
    assert told["frozen weights"] == everything - own + buffers if lora else buffers
    assert found is not None
    gathered = {part.name: part.at_times for part in found.parts}["gathered weights"]
    assert gathered == outside + max(blocks.values())


def test_weights_in_shards_count_once(tiny_folder, tmp_path):
    """A variant beside them, and a file that the index does not name, are not loaded."""
    folder = tiny_folder("QwenImagePipeline")
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert list((tmp_path / "shards").glob("text_encoder/*.index.json"))
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", tmp_path / "shards/text_encoder/other.safetensors")
    pipe.save_pretrained(tmp_path / "shards", variant="fp16")
    for precision in ("fp32", "bf16"):
        assert encoder_sizes(tmp_path / "shards", precision) == encoder_sizes(folder, precision)


def test_a_folder_without_configuration_or_with_a_damaged_file_tells_nothing(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("QwenImagePipeline"), tmp_path / "model")
    holding = Holding(1, "fp32", None)
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"no header")
    assert need(folder, holding) is None
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert need(folder, holding) is not None
    (folder / "transformer/config.json").unlink()
    assert need(folder, holding) is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 7}', '{"weight_map": {"a": "../x.safetensors"}}', "{"])
def test_nothing_is_told_of_a_damaged_index_of_shards(tiny_folder, tmp_path, content):
    """Loading says what is wrong with it; no file outside of the folder is opened."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("QwenImagePipeline"), folder)
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    file.with_name("model.safetensors.index.json").write_text(content)
    file.rename(tmp_path / "x.safetensors")
    assert need(folder, Holding(1, "fp32", None)) is None
