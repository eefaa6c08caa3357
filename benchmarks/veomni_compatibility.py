"""Which releases of torch, transformers and diffusers VeOmni's diffusion models work with, and how exactly.

    python benchmarks/veomni_compatibility.py            # needs uv; 1 GB of disk for each set while it is tried
    python benchmarks/veomni_compatibility.py --probe    # only this environment, as JSON

Every set is installed into a new environment, without omni-rl. There each of the four models is loaded from VeOmni's
registry. Those of Qwen-Image and Wan are compared with diffusers' own: same random weights, same inputs, fp32 on a
CPU, the output and the gradient of every weight. Writes ``results/veomni_compatibility.json`` and prints a table.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT = HERE / "results/veomni_compatibility.json"
VEOMNI = "0.1.12"
PYTHON = "3.11"
SETS = (  # torch, transformers, diffusers
    ("2.15.0", "5.9.0", "0.37.0"),  # the diffusers that VeOmni's extras pin
    ("2.11.0", "5.14.0", "0.40.0"),  # core's floors
    ("2.15.0", "5.14.1", "0.42.1"),
    ("2.15.0", "5.18.0", "0.41.0"),
    ("2.15.0", "5.22.2", "0.42.1"),
    ("2.15.0", "5.23.0", "0.42.1"),
    ("2.15.0", "5.24.0", "0.42.1"),
)
MODELS = {  # folder in veomni.models.diffusers -> (module of the network, its class, named so in the registry too)
    "qwen_image": ("qwen_image_transformer.modeling_qwen_image_transformer", "QwenImageTransformer2DModel"),
    "wan_t2v": ("wan_transformer.modeling_wan_transformer", "WanTransformer3DModel"),
    "ltx2_3": ("ltx_transformer.modeling_ltx2_3_transformer", "LTXVideoTransformerModel"),
    "minimax_h3": ("minimax_h3_transformer.modeling_minimax_h3_transformer", "MiniMaxH3DiTModel"),
}
SHIPPED_INSIDE = {"ltx2_3": "ltx_core"}
"""What a model imports as a package of its own, although VeOmni ships it inside of the model's folder."""


# ------------------------------------------------------------------------------------------- in the tried environment


def probe() -> dict[str, Any]:
    """What this environment has, and what of VeOmni works in it."""
    names = ("torch", "transformers", "diffusers", "veomni", "peft", "accelerate", "datasets")
    return {
        "versions": {name: version(name) for name in names},
        "models": {folder: tried(lambda f=folder: load(f)) for folder in MODELS},
        "parity": {"qwen_image": tried(qwen_image), "wan_t2v": tried(wan)},
    }


def tried(action: Callable[[], Any]) -> dict[str, Any]:
    """The result of an action, or the exact place and reason of its failure."""
    try:
        return {"works": True, **(action() or {})}
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "/veomni/" in f.filename), frames[-1])
        where = f"veomni/{place.filename.rpartition('/veomni/')[2]}:{place.lineno}"
        reason = f"{type(error).__name__}: {str(error).partition(' (/')[0]}"  # without the path of the environment
        notes = list(getattr(error, "__notes__", ()))
        return {"works": False, "where": where, "line": place.line, "reason": reason, "notes": notes}


def load(folder: str) -> None:
    """Load the classes of a model: its package, its configuration from VeOmni's registry, and its network.

    The network is imported without its registry's function, which also changes the class of diffusers with which the
    next step compares.
    """
    package = importlib.import_module(f"veomni.models.diffusers.{folder}")
    from veomni.models.loader import MODEL_CONFIG_REGISTRY

    MODEL_CONFIG_REGISTRY[MODELS[folder][1]]()
    try:
        network(folder)
    except ModuleNotFoundError as error:
        if error.name != SHIPPED_INSIDE.get(folder):
            raise
        sys.path.append(str(Path(package.__path__[0])))
        try:
            network(folder)
        except Exception as second:
            error.add_note(f"{type(second).__name__}: {second}")
        else:
            error.add_note(f"it works with the folder veomni/models/diffusers/{folder} in PYTHONPATH")
        raise


def network(folder: str) -> Any:
    """The module that defines a model's network; it has the class."""
    module, name = MODELS[folder]
    found = importlib.import_module(f"veomni.models.diffusers.{folder}.{module}")
    assert hasattr(found, name)
    return found


def qwen_image() -> dict[str, Any]:
    """VeOmni's Qwen-Image against diffusers', with texts of two lengths in one batch."""
    import torch
    from diffusers import QwenImageTransformer2DModel as Theirs

    sizes = {"num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 24}
    shape = {"in_channels": 16, "out_channels": 4, "patch_size": 2, "axes_dims_rope": (4, 6, 6)}
    module = network("qwen_image")
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, 24, 16, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 24, generator=generator),
        "timestep": torch.tensor([0.9, 0.3]),
        "encoder_hidden_states_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool(),
        "img_shapes": [[(1, 4, 6)]] * 2,
        "return_dict": False,
    }
    own = module.QwenImageTransformer2DModel(module.QwenImageTransformer2DModelConfig(**sizes, **shape))
    forward = module.QwenImageTransformer2DModel_forward
    return compared(Theirs(**sizes, **shape), own, lambda model: forward(model, **inputs)[0], inputs)


def wan() -> dict[str, Any]:
    """VeOmni's Wan against diffusers', with its attention for any device (``eager``)."""
    import torch
    from diffusers import WanTransformer3DModel as Theirs

    sizes = {"num_layers": 3, "attention_head_dim": 12, "num_attention_heads": 4, "ffn_dim": 64, "text_dim": 24}
    shape = {"in_channels": 4, "out_channels": 4, "freq_dim": 16}
    module = network("wan_t2v")
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, 4, 3, 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 24, generator=generator),
        "timestep": torch.tensor([900.0, 300.0]),
        "return_dict": False,
    }
    config = module.WanTransformer3DModelConfig(**sizes, **shape)
    config._attn_implementation = "eager"
    own = module.WanTransformer3DModel(config)
    forward = module.WanTransformer3DModel_forward
    return compared(Theirs(**sizes, **shape), own, lambda model: forward(model, **inputs), inputs)


def compared(theirs: Any, own: Any, call_own: Callable[[Any], Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Largest differences of output and gradients, relative to the largest value; names of weights must be equal."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    own.load_state_dict(theirs.state_dict())
    outputs = theirs(**inputs)[0], call_own(own)
    direction = torch.randn(outputs[0].shape, generator=generator)
    for output in outputs:
        (output * direction).sum().backward()
    gradients = [{n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (theirs, own)]
    assert gradients[0].keys() == gradients[1].keys()
    norm = max(float(g.abs().max()) for g in gradients[0].values())
    worst = max(float((gradients[0][n] - gradients[1][n]).abs().max()) for n in gradients[0])
    size, error = float(outputs[0].abs().max()), float((outputs[0] - outputs[1]).abs().max())
    return {"weights": len(gradients[0]), "output_error": error / size, "gradient_error": worst / norm}


# ------------------------------------------------------------------------------------------------ in this environment


def measured(releases: tuple[str, str, str]) -> dict[str, Any]:
    """Install one set into a new environment, and run :func:`probe` there."""
    pins = [f"{n}=={v}" for n, v in zip(("torch", "transformers", "diffusers"), releases, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "VIRTUAL_ENV": folder, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        run(["uv", "venv", "-q", "--clear", "--python", PYTHON, folder])
        plain = run(["uv", "pip", "install", "-q", f"veomni=={VEOMNI}", *pins, "peft", "accelerate"], environment)
        if plain.returncode:
            return {"asked": pins, "installs": False, "reason": plain.stderr.strip()}
        done = run([f"{folder}/bin/python", "-W", "ignore", __file__, "--probe"], environment)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return {"installs": True, **json.loads(done.stdout.splitlines()[-1])}


def run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A finished command with its output."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def floors() -> dict[str, str]:
    """The lowest releases that core allows, from its pyproject.toml."""
    project = tomllib.loads((HERE.parent / "core/pyproject.toml").read_text())["project"]
    ranges = dict(line.split(">=") for line in project["dependencies"] if ">=" in line)
    return {name: ranges[name].partition(",")[0] for name in ("torch", "transformers", "diffusers")}


def meets(versions: dict[str, str], lowest: dict[str, str]) -> bool:
    """Whether a set satisfies core's lower bounds."""
    return all(numbers(versions[name]) >= numbers(bound) for name, bound in lowest.items())


def numbers(release: str) -> tuple[int, ...]:
    """5.14.1 as (5, 14, 1)."""
    return tuple(int(part) for part in release.partition("+")[0].split("."))


def table(result: dict[str, Any]) -> str:
    """The result in one line per set."""
    lines = [f"| torch | transformers | diffusers | core's floors | {' | '.join(MODELS)} | parity |"]
    lines.append("|---" * (5 + len(MODELS)) + "|")
    for row in result["sets"]:
        if not row["installs"]:
            lines.append(f"| {' '.join(row['asked'])} cannot be installed: {row['reason'][:100]} |")
            continue
        marks = ["yes" if row["models"][m]["works"] else "no" for m in MODELS]
        parity = ", ".join(f"{v['output_error']:.0e}" if v["works"] else "-" for v in row["parity"].values())
        found = [row["versions"][name] for name in ("torch", "transformers", "diffusers")]
        lines.append(f"| {' | '.join([*found, 'yes' if row['meets_core'] else 'no', *marks, parity])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all sets and write the result."""
    lowest = floors()
    result: dict[str, Any] = {"veomni": VEOMNI, "python": PYTHON, "core_needs": lowest, "sets": []}
    for releases in SETS:
        row = measured(releases)
        result["sets"].append(row | ({"meets_core": meets(row["versions"], lowest)} if row["installs"] else {}))
        print(table({**result, "sets": result["sets"][-1:]}).splitlines()[-1], flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    if "--probe" in sys.argv:
        warnings.simplefilter("ignore")
        print(json.dumps(probe()))
    else:
        main()
