"""Draw the validation images of this folder again with plain diffusers, and compare them with the run's.

    python reproduce.py [--base FOLDER_OR_HUB_ID] [--device cuda] [--json]

``samples/`` has the run's images, their prompts and arguments, and the initial noise of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"


class RunsSchedule(FlowMatchEulerDiscreteScheduler):
    """Euler steps with the run's own timesteps and sigmas, for a pipeline whose scheduler does other steps.

    Attributes:
        table: timesteps and sigmas (one more) of the next sample.
    """

    table: tuple[list[float], list[float]]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """The table is given."""
        self.timesteps, self.sigmas = (torch.tensor(values, device=device) for values in self.table)
        self.num_inference_steps = len(self.timesteps)
        self._step_index = self._begin_index = None


def pipeline(base: str, sheet: dict[str, Any], device: str, offload: bool) -> DiffusionPipeline:
    """The exported pipeline, or the base model with the exported LoRA."""
    pipe = DiffusionPipeline.from_pretrained(base, dtype=getattr(torch, sheet["dtype"]), use_safetensors=True)
    for entry in sheet["lora"]:
        if "file" in entry:
            apply(getattr(pipe, entry["component"]), load_file(HERE / entry["file"]), entry["names"])
        else:
            pipe.load_lora_weights(HERE, **entry)
    own = pipe.scheduler
    if type(own) is not FlowMatchEulerDiscreteScheduler or own.config.get("stochastic_sampling"):
        pipe.scheduler = RunsSchedule(num_train_timesteps=own.config.num_train_timesteps)
    if offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def apply(denoiser: torch.nn.Module, tensors: dict[str, torch.Tensor], names: dict[str, str]) -> None:
    """W + alpha / rank * B A for every layer, as readers do that ignore the header; without alpha the factor is 1."""
    for layer, name in names.items():
        down = next(tensors[key] for side in ("lora_A", "lora_down") if (key := f"{name}.{side}.weight") in tensors)
        up = next(tensors[key] for side in ("lora_B", "lora_up") if (key := f"{name}.{side}.weight") in tensors)
        scale = float(tensors.get(f"{name}.alpha", torch.tensor(len(down)))) / len(down)
        weight = denoiser.get_parameter(f"{layer}.weight")
        weight.copy_(weight.float() + scale * (up.float() @ down.float()).to(weight.device))


def draw(pipe: DiffusionPipeline, sample: dict[str, Any]) -> np.ndarray:
    """An image (H, W, 3) uint8; for a video, four frames side by side, as in the run's report."""
    if isinstance(pipe.scheduler, RunsSchedule):
        pipe.scheduler.table = sample["timesteps"], sample["sigmas"]
    noise = load_file(SAMPLES / sample["noise"])
    media = {argument: opened(files) for argument, files in sample["media"].items()}
    given = {**sample["call"], **media, **noise, "output_type": "np", "return_dict": False}
    if media:
        given["generator"] = torch.manual_seed(0)  # some pipelines sample the image encoder's distribution
    medium = np.asarray(pipe(**given)[0][0])
    if sample["video"]:
        chosen = np.linspace(0, len(medium) - 1, min(len(medium), 4)).round().astype(int)
        medium = np.concatenate(medium[chosen], axis=1)
    return (medium * 255).round().clip(0, 255).astype(np.uint8)


def opened(files: str | list[str]) -> Any:
    """An image, or a list of images."""
    return [Image.open(SAMPLES / file) for file in files] if isinstance(files, list) else Image.open(SAMPLES / files)


def compare(pipe: DiffusionPipeline, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest and the mean absolute difference over all images, in levels of 0 to 255."""
    kept = [np.asarray(Image.open(SAMPLES / sample["picture"]), dtype=np.int16) for sample in samples]
    gaps = [np.abs(draw(pipe, sample) - picture) for sample, picture in zip(samples, kept, strict=True)]
    largest, mean = max(gap.max() for gap in gaps), np.mean([gap.mean() for gap in gaps])
    return {"pictures": len(gaps), "largest": int(largest), "mean": float(mean)}


def main() -> None:
    """Run the comparison and print its result."""
    sheet = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default=sheet["base"], help="the model that the adapters were trained on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--offload", action="store_true", help="keep components on the CPU while they are not used")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    base = str(HERE) if not sheet["lora"] else given.base
    if base is None:
        parser.error("--base is needed: the adapters were trained on a model that is not on a hub")
    found = compare(pipeline(base, sheet, given.device, given.offload), sheet["samples"])
    text = "{pictures} images: largest difference {largest}/255, mean {mean:.3f}/255".format(**found)
    print(json.dumps(found) if given.json else text)


if __name__ == "__main__":
    main()
