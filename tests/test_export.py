"""What a run is after ``omni-rl export``: plain diffusers, in a process without omni-rl, draws the run's pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rl import train
from omni_rl.errors import RunError
from omni_rl.reporting import exhibits
from omni_rl.schedulers.randomness import INITIAL, randn_rows
from omni_rl.schedulers.types import NoiseKey
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_export import weights
from omni_rl_export.export import Wanted, export_run
from omni_rl_tiny import pipelines, tiny_qwen_signs
from omni_rl_tiny.pipelines.pictures import media as tiny_media

pytestmark = [
    pytest.mark.ci,
    pytest.mark.timeout(1800),  # half a dozen processes that import torch, on a busy machine
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # diffusers
]

QUICK = ["rollout.prompts=2", "rollout.group_size=6", "gate=off", "device=cpu"]
QUICK += ["train.iterations=2", "train.warmup=0", "train.mini_batch_prompts=1"]
QUICK += ["validation.prompts=3", "validation.samples_per_prompt=2"]

DRAW = """
import sys
import numpy as np
from safetensors.torch import load_file
noise = load_file(sys.argv[1])["noise"]
prompts = [p for p in PROMPTS for _ in range(2)]
drawn = [
    pipe(prompt=p, latents=x[None], num_inference_steps=8, height=32, width=64, output_type="np").images[0]
    for p, x in zip(prompts, noise)
]
np.save(sys.argv[2], np.stack(drawn))
assert [m for m in sys.modules if m.startswith("omni_rl")] == []
"""


WITHOUT_OMNI_RL = """
import runpy, sys
sys.modules["omni_rl"] = None  # importing it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

LORA = {"rank": 2, "alpha": 7}


def held_out() -> list[str]:
    lines = (tiny_qwen_signs() / "prompts_heldout.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines[:3]]


def code_of(card: Path, folder: Path) -> str:
    """The card's own code, with the places filled in that it leaves to the reader."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    places = {
        "path/to/this/folder": str(folder),
        "path/to/tiny-qwen-signs": str(tiny_qwen_signs()),
        'prompt = "..."': 'prompt = "a sign"',
    }
    for place, value in places.items():
        code = code.replace(place, value)
    return code


def drawn_outside(code: str, tmp_path: Path) -> np.ndarray:
    """The validation's pictures (N, H, W, 3) in [0, 1] by the ``pipe`` that ``code`` makes, in a process of its own.

    The noise is drawn here anew, from the keys that validation declares; it is not taken from the export.
    """
    keys = [NoiseKey(0, "validation", 0, prompt, member) for prompt in range(3) for member in range(2)]
    save_file({"noise": randn_rows(keys, "x", INITIAL, (32, 12))}, tmp_path / "noise.safetensors")
    script = f"{code}\nPROMPTS = {held_out()!r}\n{DRAW}"
    words = [sys.executable, "-c", script, str(tmp_path / "noise.safetensors"), str(tmp_path / "drawn.npy")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "drawn.npy")


def gap(drawn: np.ndarray, kept: np.ndarray) -> float:
    """The largest difference between pictures in [0, 1] and pictures of levels 0 to 255."""
    return float(np.abs(drawn - kept / 255).max())


def kept(run: Path) -> np.ndarray:
    return np.stack([e.image for e in exhibits.read(RunDirectory(run), 2)])


def before(run: Path) -> np.ndarray:
    return load_file(run / "images" / "before.safetensors")["images"].numpy()


def test_a_lora_of_the_shipped_model(call: Callable[..., Any], checkout: Path, tmp_path: Path) -> None:
    """Alpha is five times the rank. What the card says works, and so does the script beside it."""
    lora = ["model.lora.rank=4", "model.lora.alpha=20", "train.lr=1e-2"]
    done = call("train", checkout / "examples/quickstart.yaml", *QUICK, *lora, "--run-dir", "run")
    assert done.code == 0, done.err
    pictures = kept(tmp_path / "run")
    assert np.abs(pictures.astype(int) - before(tmp_path / "run")).max() > 20
    done = call("export", "run", "--output", "out")
    assert done.code == 0, done.err
    assert "6 images by plain diffusers differ from the run's by at most " in done.out
    assert done.out.splitlines()[-1] == "out"
    assert gap(drawn_outside(code_of(tmp_path / "out" / "README.md", tmp_path / "out"), tmp_path), pictures) <= 1 / 255

    script = tmp_path / "out" / "reproduce.py"
    words = [sys.executable, "-c", WITHOUT_OMNI_RL, str(script), "--base", str(tiny_qwen_signs()), "--device", "cpu"]
    alone = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert alone.returncode == 0, alone.stderr
    assert re.fullmatch(r"6 images: largest difference [01]/255, mean 0\.\d{3}/255", alone.stdout.splitlines()[-1])


@pytest.mark.full
def test_a_full_fine_tuning_of_the_shipped_model_with_an_average(
    call: Callable[..., Any], checkout: Path, tmp_path: Path
) -> None:
    """Validation looks at the average, and so does the export unless it is asked for the policy."""
    full = ["train.lr=1e-3", "train.ema.decay=0.7"]
    assert call("train", checkout / "examples/quickstart.yaml", *QUICK, *full, "--run-dir", "run").code == 0
    pictures = kept(tmp_path / "run")
    assert np.abs(pictures.astype(int) - before(tmp_path / "run")).max() > 20
    for name, options in (("average", ()), ("policy", ("--weights", "policy", "--no-verify"))):
        done = call("export", "run", "-o", name, *options)
        assert done.code == 0, done.err
        found = gap(drawn_outside(code_of(tmp_path / name / "README.md", tmp_path / name), tmp_path), pictures)
        assert (found <= 1 / 255) == (name == "average")
    done = call("export", "run", "-o", "adapter", "--format", "lora")
    assert done.code == 2
    assert "--format pipeline" in done.err


@pytest.fixture
def tiny_run(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """``tiny_run(architecture, lora=None)``: the folder of a run on that architecture's tiny pipeline."""

    def make(
        architecture: str,
        model: Path | None = None,
        lora: dict[str, int] | None = LORA,
        lr: float = 5e-2,
        precision: str = "fp32",
    ) -> Path:
        prompts = ["hello world", "a sign that says 7"]
        media = tiny_media(architecture, tmp_path, len(prompts))
        rows = [{"prompt": prompt, **files} for prompt, files in zip(prompts, media, strict=True)]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config: dict[str, Any] = {
            "model": {"path": str(model or tiny_folder(architecture)), "lora": lora},
            "algorithm": {"name": "flow_grpo"},
            "rollout": {"steps": 4, "prompts": 2, "group_size": 4, "call": pipelines.CALLS[architecture]},
            "reward": "jpeg_compressibility",
            "data": {"path": str(tmp_path / "prompts.jsonl"), "media": {name: name for name in media[0]}},
            "train": {"iterations": 2, "lr": lr},
            "validation": {"every": 0},
            "device": "cpu",
            "precision": precision,
            "gate": "off",
        }
        train(config, run_dir=tmp_path / "run")
        return tmp_path / "run"

    return make


def verified(folder: Path) -> dict[str, float]:
    """What plain diffusers, in a process of its own, made of an export."""
    return json.loads((folder / "omni-rl.json").read_text())["verified"]


SOLVERS = {
    "StableDiffusion3Pipeline": None,
    "FluxPipeline": None,
    "SanaPipeline": "DPMSolverMultistepScheduler",
    "WanPipeline": "UniPCMultistepScheduler",
    "LTX2Pipeline": None,
    "FluxControlPipeline": None,
    "LTXImageToVideoPipeline": None,
}


@pytest.mark.parametrize(
    ("architecture", "solver"),
    [pytest.param(*each, marks=() if i in (0, 2) else pytest.mark.full) for i, each in enumerate(SOLVERS.items())],
)
def test_no_model_is_special(architecture: str, solver: str | None, tiny_run: Callable[..., Path]) -> None:
    """Guidance on; two of them step with multistep solvers of their own, which the card tells, some make videos. LTX-2
    normalises the latents that it is given, LTX wants the picture in them, FLUX Control draws to encode it.
    """
    folder = export_run(tiny_run(architecture))
    told = re.search(r"leaves the pipeline its own `(\w+)`", (folder / "README.md").read_text())
    assert (told[1] if told else None) == solver
    found = verified(folder)
    assert found["pictures"] == 2
    assert found["largest"] <= 1
    assert found["training"] > 1


@pytest.mark.full
def test_both_experts_travel(tiny_run: Callable[..., Path], tmp_path: Path) -> None:
    """A file each; what is left out is missed."""
    model = pipelines.build("WanPipeline-two-experts", tmp_path / "two")
    run = tiny_run("WanPipeline", model)
    folder = export_run(run)
    assert verified(folder)["largest"] <= 1
    assert "load_into_transformer_2=True" in (folder / "README.md").read_text()
    first, second = (load_file(folder / f"pytorch_lora_weights{end}.safetensors") for end in ("", "_2"))
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert verified(export_run(run, tmp_path / "merged", Wanted(format="pipeline")))["largest"] <= 1
    sheet = folder / "samples" / "samples.json"
    rows = json.loads(sheet.read_text())
    sheet.write_text(json.dumps({**rows, "lora": rows["lora"][:1]}))
    words = [sys.executable, str(folder / "reproduce.py"), "--json", "--base", str(model)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout.splitlines()[-1])["largest"] > 1


@pytest.mark.full
@pytest.mark.parametrize(("lora", "lr"), [(LORA, 5e-2), (None, 5e-3)], ids=["lora", "full"])
def test_in_bf16_the_pictures_are_near(lora: dict[str, int] | None, lr: float, tiny_run: Callable[..., Path]) -> None:
    """diffusers rounds its latents to bf16 at every step and the run does not: no limit, but far less than training."""
    found = verified(export_run(tiny_run("StableDiffusion3Pipeline", lora=lora, lr=lr, precision="bf16")))
    assert found["limit"] is None
    assert found["training"] > 1
    assert found["mean"] < found["training"] / 4


def test_an_export_that_forgets_alpha_is_refused(
    tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scale 1 in place of alpha / rank: nothing but the pictures can tell."""
    run = tiny_run("FluxPipeline")
    whole = weights.layers_of

    def unscaled(tensors: Any, lora: Any, dtype: torch.dtype) -> Any:
        return whole(tensors, lora.model_copy(update={"alpha": lora.rank}), dtype)

    monkeypatch.setattr(weights, "layers_of", unscaled)
    with pytest.raises(RunError, match="does not reproduce the run") as caught:
        export_run(run)
    assert "--no-verify" in str(caught.value)
    assert [p.name for p in run.iterdir() if "export" in p.name] == []
