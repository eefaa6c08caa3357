"""Write docs/coverage.md: which pipelines of diffusers the universal adapter trains, and why it does not train others.

python tools/coverage_table.py --run [ARCHITECTURE ...]   # judge tiny pipelines (all by default), then write
python tools/coverage_table.py                            # write the page from the recorded verdicts
python tools/coverage_table.py --check                    # exit 1 when the page is out of date

Verdicts come from runs (core/tests/verdicts.py), everything else from diffusers' own signatures and sources. Both are
recorded, with the version of diffusers, in benchmarks/results/universal_coverage.json.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import sys
import tempfile
import typing
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from written import ROOT, write_or_check

PAGE = ROOT / "docs/coverage.md"
RECORD = ROOT / "benchmarks/results/universal_coverage.json"
TESTS = ROOT / "core/tests"  # verdicts

Entry = dict[str, Any]

INPUT = re.compile(
    r"Img2Img|ImageToVideo|Image2Video|VideoToVideo|(?<!T)I2V|I2I|V2V|Inpaint|Control|Edit|Kontext|Fill|Condition|Layered"
    r"|Refin|SR|VACE|(?<!Easy)Animate|Transfer|Redux|InContext|Cloze|HDR|DFR|KV|VideoToWorld|AudioToAudio|Upsampl|WM|Framepack"
)
"""Says in a pipeline's name that it starts from an image, a video or a sound; its signature may make it optional."""

MEDIA_ARGUMENTS = {"image", "images", "video", "control_image", "controls", "mask_image", "input_images"}

FLOW_IN_TEXT = re.compile(r"flow_shift|flow_prediction|use_flow_sigmas|flow[- ]matching|rectified flow", re.IGNORECASE)

FLOW_BY_CHECKPOINT = {
    "SanaPipeline",
    "SanaPAGPipeline",
    "SanaControlNetPipeline",
    "SanaVideoPipeline",
    "Cosmos2_5_PredictBasePipeline",
    "Cosmos2_5_TransferPipeline",
    "Cosmos3OmniPipeline",
    "WanAnimatePipeline",
    "MotifVideoPipeline",
    "MotifVideoImage2VideoPipeline",
}
"""Annotated with a solver that can do both; which one it does, only the published ``scheduler_config.json`` says."""

SOUND = "makes sound alone; rewards and reports for sound are not there yet"
NOT_TRIED: dict[str, str] = {
    "AceStepPipeline": SOUND,
    "AnyFlowFARPipeline": "a flow map in chunks; AnyFlowPipeline stands for it",
    "BriaFiboPipeline": "its call takes no embeddings back",
    "Cosmos2TextToImagePipeline": "its safety checker is a package that downloads models",
    "Cosmos2_5_PredictBasePipeline": "its safety checker is a package that downloads models",
    "DreamLiteMobilePipeline": "its call takes no latents",
    "DreamLitePipeline": "its call takes no latents",
    "GlmImagePipeline": "an autoregressive model samples tokens before the flow begins",
    "HeliosPyramidPipeline": "no tiny pipeline yet",
    "Ideogram4Pipeline": "its call takes no embeddings back",
    "Kandinsky5T2IPipeline": "its sizes are fixed and large; Kandinsky5T2VPipeline has the same transformer",
    "Kandinsky6TI2VAPipeline": "no tiny pipeline yet",
    "LongCatAudioDiTPipeline": SOUND,
    "StableAudio3Pipeline": SOUND,
}
"""Flow matching from text alone, and without a tiny pipeline so far: why."""

NOISED = re.compile(r"\b(scale_noise|add_noise)\(")
"""In the source of a pipeline with a ``strength``: its latents are made of an image and noise."""

NOTES: dict[str, str] = {
    "AnyFlowPipeline": "(a flow map, which is told the next timestep beside this one)",
    "Cosmos3OmniPipeline": "(an empty video is encoded in every call)",
    "HeliosPipeline": "(videos are made in chunks, each from noise of its own)",
    "HiDreamImagePipeline": "(in eval mode diffusers runs the experts under torch.no_grad)",
    "HunyuanImagePipeline": "(the published guider keeps a momentum from step to step)",
    "HunyuanVideoImageToVideoPipeline": "(a thousandth of the image is added to the latents that it is given)",
    "LTXConditionPipeline": "(its call takes latents for a video to start from, not for noise)",
    "LongCatImageEditPipeline": "(its encode_prompt counts the prompts even when it is given embeddings)",
    "LongCatImagePipeline": "(its encode_prompt counts the prompts even when it is given embeddings)",
    "PRXPixelPipeline": "(core draws standard normal noise only)",
    "SkyReelsV2DiffusionForcingPipeline": "(a scheduler for each frame; diffusers fails with latents that it is given)",
}
"""What is behind a failure, where the recorded sentence does not say it."""

FROM_NOISED = """These pipelines compute their first latents from an image and noise with `scale_noise` or `add_noise`
if `strength` is below 1, or insert the noised image again after every step. omni-rl draws the initial noise of a sample
itself and trains on every step after it, so it cannot train these pipelines."""

HEAD = """# Which pipelines can be trained

Written by `python tools/coverage_table.py` for diffusers {diffusers} (torch {torch}, transformers {transformers}). The
verdicts come from runs, the rest from the signatures in diffusers.

For each architecture with a verdict, a tiny random pipeline was built from diffusers' own classes, with text encoders
and autoencoder, and trained with the universal adapter without a plugin. **pass** means: every row of the gate passes,
with LoRA and with all weights; without SDE noise, core's latents equal those of the pipeline's own loop; the velocity's
gradient equals its numerical derivative; and two iterations of FlowGRPO change every adapter and every weight that the
velocity depends on (`core/tests/verdicts.py`). Most of these architectures have no plugin and do not need one.

{counts}
"""


def main(arguments: Sequence[str]) -> int:
    """Judge, write or compare."""
    if arguments[:1] == ["--run"]:
        record(judged(arguments[1:]))
    content = page(json.loads(RECORD.read_text(encoding="utf-8")))
    return write_or_check(arguments, "coverage_table", {PAGE: content})


# ----------------------------------------------------------------------------------------------------------- verdicts


def judged(architectures: Sequence[str]) -> dict[str, Entry]:
    """Run the tiny pipelines of ``architectures``, or all; verdicts by architecture."""
    sys.path.insert(0, str(TESTS))
    import verdicts

    found = {}
    for name in architectures or verdicts.architectures():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder, "runs")
            work.mkdir()
            verdict = verdicts.judge(verdicts.subject(name, Path(folder, "model")), work)
        found[name] = verdict.as_json()
        print(f"{name}: {verdict.verdict} {verdict.reason}", flush=True)
    return found


def record(verdicts: dict[str, Entry]) -> None:
    """Facts about every pipeline, with the new verdicts over those on record."""
    known = json.loads(RECORD.read_text(encoding="utf-8"))["pipelines"] if RECORD.exists() else {}
    kept = {n: {k: e[k] for k in ("verdict", "reason", "media")} for n, e in known.items() if "verdict" in e}
    pipelines = {name: {**facts, **{**kept, **verdicts}.get(name, {})} for name, facts in all_facts().items()}
    versions = {name: version(name) for name in ("diffusers", "torch", "transformers")}
    content = {"versions": versions, "pipelines": pipelines}
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- facts


def all_facts() -> dict[str, Entry]:
    """What signatures and sources of the installed diffusers say about each of its pipelines."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    return {name: facts(cls) for name, cls in pipelines()}


def pipelines() -> Iterator[tuple[str, type]]:
    """Every pipeline class that diffusers exports, by name."""
    import diffusers

    for name in sorted(dir(diffusers)):
        cls = getattr(diffusers, name, None) if "Pipeline" in name else None
        if not (inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline)):
            continue
        if cls is not diffusers.DiffusionPipeline and cls.__module__.startswith("diffusers.pipelines."):
            yield name, cls


def facts(cls: type) -> Entry:
    """Schedulers by annotation, whether they match flows, whether something else than text goes in, and whether that is
    noised.
    """
    init = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    schedulers = _class_names(init["scheduler"].annotation) if "scheduler" in init else []
    call = inspect.signature(cls.__call__).parameters
    text = inspect.getsource(inspect.getmodule(cls))  # type: ignore[arg-type]
    open_solver = any(name in {"UniPCMultistepScheduler", "SchedulerMixin"} for name in schedulers)
    by_text = open_solver and bool(FLOW_IN_TEXT.search(text))
    flow = any("Flow" in name or "Helios" in name or "RF" in name for name in schedulers)
    needed = {n for n, p in call.items() if p.default is p.empty and n in MEDIA_ARGUMENTS}
    return {
        "schedulers": schedulers,
        "flow_matching": flow or by_text or cls.__name__ in FLOW_BY_CHECKPOINT,
        "needs_input": bool(needed or INPUT.search(cls.__name__)),
        "noised_input": "strength" in call and bool(NOISED.search(inspect.getsource(cls))),
    }


def _class_names(annotation: Any) -> list[str]:
    if annotation is inspect.Parameter.empty or annotation in (None, type(None)):
        return []
    if isinstance(annotation, str):
        return [name.strip() for name in annotation.split("|") if name.strip() != "None"]
    if parts := typing.get_args(annotation):
        return [name for part in parts for name in _class_names(part)]
    return [annotation.__name__]


# --------------------------------------------------------------------------------------------------------------- page


def page(content: Entry) -> str:
    """The whole file.

    Raises:
        KeyError: a flow-matching pipeline is neither judged nor listed in ``NOT_TRIED``.
    """
    lines: dict[str, list[str]] = {"pass": [], "fails": [], "not tried": []}
    others: Counter[str] = Counter()
    needing: list[str] = []
    noised: list[str] = []
    for name, entry in content["pipelines"].items():
        if "verdict" in entry:
            reason = " ".join(filter(None, [entry["reason"], NOTES.get(name, "")]))
            verdict = entry["verdict"] + (f": {reason}" if reason else "")
            lines[entry["verdict"]].append(f"| {name} | {_kind(entry)} | {verdict} |")
        elif not entry["flow_matching"]:
            others[", ".join(entry["schedulers"]) or "no scheduler"] += 1
        elif entry["needs_input"] and entry["noised_input"]:
            noised.append(name)
        elif entry["needs_input"]:
            needing.append(name)
        else:
            lines["not tried"].append(f"| {name} | from text | not tried: {NOT_TRIED[name]} |")
    passing, failing, untried = (len(rows) for rows in lines.values())
    counts = (
        f"Of {len(content['pipelines'])} pipelines {passing} pass and {failing} fail. {untried} were not tried, and "
        f"{len(needing)} that start from an image, a video or a sound were not tried either. {len(noised)} start from "
        f"a noised image. {others.total()} do not use flow matching."
    )
    rows = [row for part in lines.values() for row in part]
    table = ["| architecture | kind | verdict |", "|---|---|---|", *rows]
    tail = ["", "## Start from an image, a video or a sound, not tried", "", ", ".join(needing) + ".", ""]
    tail += ["## Start from a noised image", "", FROM_NOISED, "", ", ".join(noised) + ".", ""]
    tail += ["## Not flow matching", "", "By the schedulers in their type annotations:", ""]
    tail += [f"* {count}: {schedulers}" for schedulers, count in sorted(others.items())]
    return HEAD.format(**content["versions"], counts=counts) + "\n" + "\n".join([*table, *tail]) + "\n"


def _kind(entry: Entry) -> str:
    made = " and ".join(sorted(entry["media"], key=["image", "video", "audio"].index)) or "nothing"
    return f"{'text and images' if entry['needs_input'] else 'text'} to {made}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
