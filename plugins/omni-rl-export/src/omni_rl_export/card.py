"""The model card: ``README.md`` with the metadata of a model hub, and the files that it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from omni_rl.contracts.call import INDEX, effective_call
from omni_rl.reporting import artifacts
from omni_rl.reporting.curves import stderr_name
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.reporting.image_grids import before_after
from omni_rl_export.curves import write_curves
from omni_rl_export.source import Source
from omni_rl_export.verify import Verified

CONFIG = "config.yaml"


def write_card(
    folder: Path,
    source: Source,
    *,
    dtype: str,
    lora: Sequence[dict[str, Any]],
    exhibits: Sequence[Exhibit],
    verified: Verified | None,
) -> None:
    """Write ``README.md``, ``config.yaml``, ``curves.svg`` and, if there are images, ``before_after.png``.

    Args:
        folder: the export folder.
        dtype: name of the torch dtype of the weights.
        lora: one entry per LoRA file, as ``write_lora`` returns them; empty for a pipeline folder.
        exhibits: validation samples of these weights.
        verified: None if the export was not compared with the run's images.
    """
    origin = source.origin
    history = [row for row in artifacts.history(source.directory) if row["iteration"] <= source.iteration]
    write_curves(folder / "curves.svg", history)
    if exhibits:
        _before_after(folder / "before_after.png", source, exhibits)
    config = yaml.safe_dump(without_paths(source.resolved.config.model_dump(mode="json")), sort_keys=False)
    (folder / CONFIG).write_text(config, encoding="utf-8")
    parts = [
        _front_matter(origin["model"], adapter=bool(lora)),
        _title(source, origin["model"], adapter=bool(lora)),
        _usage(source, origin["model"], dtype, lora, video=any(e.video for e in exhibits)),
        _results(history, pictures=bool(exhibits)),
        _reproduction(verified, bool(exhibits), _other_scheduler(source)),
        _origin(source, origin, dtype),
        f"## Configuration\n\nAll effective values; only the last part of paths is shown.\n\n```yaml\n{config}```",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Nested data in which absolute paths are shortened to their last part, because a card is read on other
    machines.
    """
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name or value
    return value


def _before_after(path: Path, source: Source, exhibits: Sequence[Exhibit]) -> None:
    first, _ = artifacts.before(source.directory)
    pictures = [first[e.request.sample_id] for e in exhibits]
    before_after(pictures, [e.image for e in exhibits], [e.request.prompt for e in exhibits]).save(path)


def _front_matter(model: Mapping[str, Any], *, adapter: bool) -> str:
    base = {"base_model": model["name"], "base_model_relation": "adapter" if adapter else "finetune"}
    tags = ["omni-rl", "reinforcement-learning", *(["lora"] if adapter else [])]
    matter = {"library_name": "diffusers", **(base if model["hub"] else {}), "tags": tags}
    return f"---\n{yaml.safe_dump(matter, sort_keys=False)}---"


def _title(source: Source, model: Mapping[str, Any], *, adapter: bool) -> str:
    config = source.resolved.config
    lora = source.lora
    adapters = f"LoRA (rank {lora.rank}, alpha {lora.alpha:g})" if lora else ""
    merged = f"with a {adapters} merged into its denoiser" if lora else "with its whole denoiser trained"
    pipeline = f"diffusers' `{model['architecture']}`"
    what = f"A {adapters} for {pipeline}" if adapter else f"A pipeline folder of {pipeline}, {merged}"
    rewards = ", ".join(f"{r.label or r.name} (weight {r.weight:g})" for r in config.reward)
    weights = "the moving average of the weights" if source.weights == "ema" else f"the weights `{source.weights}`"
    return (
        f"# {model['name'].rpartition('/')[2]}, trained with {config.algorithm.name}\n\n"
        f"{what}: {weights} after {source.iteration} iterations of {config.algorithm.name} with omni-rl.\n\n"
        f"Reward: {rewards}."
    )


def _usage(source: Source, model: Mapping[str, Any], dtype: str, lora: Sequence[dict[str, Any]], video: bool) -> str:
    """Example code, complete except for paths to files of the reader."""
    config = source.resolved.config
    call = effective_call(config.rollout.call, config.validation.call)
    call = {"num_inference_steps": config.validation.steps or config.rollout.steps, **call}
    words = ", ".join(f"{name}={_python(value)}" for name, value in call.items())
    base = json.dumps(model["name"] if model["hub"] else f"path/to/{model['name']}")
    revision = f', revision="{model["commit"]}"' if model["hub"] else ""
    pipeline = f"base{revision}" if lora else "folder"
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        'folder = "path/to/this/folder"',
        *([f"base = {base}"] if lora else []),
        'prompt = "..."',
        "",
        f"pipe = DiffusionPipeline.from_pretrained({pipeline}, dtype=torch.{dtype})",
        *map(_loading, lora),
        'pipe.to("cuda" if torch.cuda.is_available() else "cpu")',
        f"result = pipe(prompt=prompt, {words}).{'frames' if video else 'images'}[0]",
    ]
    return "## Use\n\n```python\n{}\n```".format("\n".join(lines))


def _loading(entry: Mapping[str, Any]) -> str:
    """The line that loads one LoRA file."""
    if "file" in entry:
        return f"# {entry['component']}: load {entry['file']} with the reader of its format"
    return f"pipe.load_lora_weights(folder, {', '.join(f'{k}={_python(v)}' for k, v in entry.items())})"


def _python(value: Any) -> str:
    """A Python literal, with the quotes of the code around it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _results(history: Sequence[Mapping[str, float]], pictures: bool) -> str:
    """Validation rewards of the first and the last validation, the curves, and the images."""
    validated = [row for row in history if "val/reward/mean" in row]
    names = [name for name in validated[0] if name.startswith("val/reward/") and name.endswith("/mean")]
    rows = [
        f"| {row['iteration']} | {' | '.join(_figure(row, name) for name in names)} |"
        for row in (*validated[:1], *validated[1:][-1:])
    ]
    heads = [name.removeprefix("val/").removesuffix("/mean") for name in names]
    table = "\n".join([f"| iteration | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|", *rows])
    shown = "\n\nBefore (upper rows) and after (lower rows), from equal noise:\n\n![](before_after.png)" * pictures
    return f"## Held-out rewards\n\n{table}\n\n![Curves over the iterations](curves.svg){shown}"


def _figure(row: Mapping[str, float], name: str) -> str:
    error = row.get(stderr_name(name))
    return f"{row[name]:.3f}" if error is None else f"{row[name]:.3f} ± {error:.3f}"


def _reproduction(verified: Verified | None, pictures: bool, other: str | None) -> str:
    if not pictures:
        text = "No validation of the run sampled with these weights, so there are no images to compare with."
    else:
        again = "`python reproduce.py` draws the images in `samples/` again and compares them."
        text = f"{again} " + (f"Result during the export: {verified}." if verified else "The export did not run it.")
    if other:
        text += (
            f"\n\nThe run took Euler steps, and so does `reproduce.py`. The code under Use leaves the pipeline its own"
            f" `{other}`, which computes other steps: its images are similar to these, but not equal."
        )
    return f"## Reproduction\n\n{text}"


def _other_scheduler(source: Source) -> str | None:
    """The class of the pipeline's scheduler if its steps differ from the run's Euler steps."""
    folder = source.resolved.model_path
    name = str(json.loads((folder / INDEX).read_text(encoding="utf-8"))["scheduler"][1])
    config = folder / "scheduler" / "scheduler_config.json"
    stochastic = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("stochastic_sampling")
    return None if name == "FlowMatchEulerDiscreteScheduler" and not stochastic else name


def _origin(source: Source, origin: Mapping[str, Any], dtype: str) -> str:
    model, versions = origin["model"], origin["versions"]
    commit = f", commit `{model['commit']}`" if model["hub"] else ""
    rows = [
        ("base model", f"{model['name']}{commit}; content `sha256:{model['fingerprint']}`"),
        *((f"{use} data", f"{file['file']}, `sha256:{file['sha256']}`") for use, file in origin["data"].items()),
        ("weights", f"{source.weights} after iteration {source.iteration}, {dtype}"),
        ("seed", origin["seed"]),
        ("trained on", origin["device"]),
        ("with", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return f"## Where it comes from\n\n{table}"
