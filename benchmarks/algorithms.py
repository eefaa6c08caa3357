"""Every algorithm on the quickstart's task, three seeds each: held-out scores before and after, and wall time.

Every run is the command line in a process of its own, imports, gate and validations included; the control is FlowGRPO
with a learning rate of 0. Runs that the file already holds are not repeated. ``--page`` writes the table and the curves
of what the file holds.

    python benchmarks/algorithms.py [CONFIG...] [--seeds 0 1 2] [--json FILE] [--page docs/algorithms.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "algorithms"
RESULTS = ROOT / "benchmarks" / "results" / "algorithms_cpu.json"
CONTROL = "control (lr 0)"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#555555")
LEFT, TOP, WIDTH, HEIGHT = 50.0, 20.0, 560.0, 300.0


def trained(config: Path, *overrides: str) -> dict[str, Any]:
    """One run's validations and seconds."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        line = ["omni-rl", "train", str(config), *overrides, "--run-dir", str(folder)]
        started = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        held_out = [json.loads(text) for text in (folder / "validation.jsonl").read_text().splitlines()]
    scores = [[row["iteration"], round(row["val/reward/mean"], 4)] for row in held_out]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {
        "overrides": list(overrides),
        "commit": commit.stdout.strip(),
        "seconds": round(seconds, 1),
        "held_out": scores,
    }


def gain(run: dict[str, Any]) -> float:
    """After less before."""
    return float(run["held_out"][-1][1] - run["held_out"][0][1])


def page(runs: dict[str, list[dict[str, Any]]], image: str) -> str:
    """Markdown."""
    lines = [
        "# Algorithms, side by side",
        "",
        "The quickstart's task (`examples/algorithms/`): a tiny Qwen-Image learns to write legible numbers,",
        "rewarded by a real OCR model; scores are on numbers that nothing was trained on, without noise.",
        "`diffusion_dpo_offline` learns from the shipped pairs instead, of which the lighter one is preferred; its",
        "score is the brightness of what it draws for held-out numbers. The control is FlowGRPO with a learning",
        "rate of 0. Two CPU cores; seconds include imports, gate and validations. Every algorithm has its",
        "example's settings, chosen by hand on this one task and with unequal care: the table says that each of",
        "them learns, not which one is best.",
        "",
        "Figures, overrides and commits: `benchmarks/results/algorithms_cpu.json`; written by",
        "`python benchmarks/algorithms.py --page docs/algorithms.md`.",
        "",
        "| algorithm | before | after (each seed) | gain: mean ± standard deviation | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        gains = [gain(run) for run in found]
        spread = f" ± {stdev(gains):.3f}" if len(gains) > 1 else ""
        after = ", ".join(f"{run['held_out'][-1][1]:.3f}" for run in found)
        seconds = mean(run["seconds"] for run in found)
        lines.append(
            f"| {name} | {found[0]['held_out'][0][1]:.3f} | {after} | {mean(gains):+.3f}{spread} | {seconds:.0f} |"
        )
    return "\n".join([*lines, "", f"![held-out scores over iterations]({image})", ""])


def curves(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Held-out scores over iterations, the mean over seeds as a line and every seed as a thin one: SVG."""
    last = max(point[0] for found in runs.values() for run in found for point in run["held_out"])
    scores = [point[1] for found in runs.values() for run in found for point in run["held_out"]]
    low, high = min(scores) - 0.02, max(scores) + 0.02

    def line(points: list[list[float]], style: str) -> str:
        places = [(LEFT + WIDTH * x / last, TOP + HEIGHT * (high - y) / (high - low)) for x, y in points]
        return f'<polyline fill="none" {style} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'

    body = ['<rect width="100%" height="100%" fill="white"/>']
    for tick in range(int(low * 10) + 1, int(high * 10) + 1):
        y = TOP + HEIGHT * (high - tick / 10) / (high - low)
        body.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        body.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick / 10:.1f}</text>')
    for (name, found), colour in zip(runs.items(), COLOURS, strict=True):
        average = [
            [points[0][0], mean(point[1] for point in points)]
            for points in zip(*(run["held_out"] for run in found), strict=True)
        ]
        body += [line(run["held_out"], f'stroke="{colour}" stroke-width="0.6" opacity="0.5"') for run in found]
        body.append(line(average, f'stroke="{colour}" stroke-width="2"'))
        row = TOP + 16 * list(runs).index(name)
        body.append(f'<text x="{LEFT + WIDTH + 12}" y="{row + 4:.1f}" fill="{colour}">{name}</text>')
    body.append(f'<text x="{LEFT}" y="{TOP + HEIGHT + 18}">iteration 0</text>')
    body.append(f'<text x="{LEFT + WIDTH}" y="{TOP + HEIGHT + 18}" text-anchor="end">{last}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 150:.0f}" height="{TOP + HEIGHT + 30:.0f}"'
    return f'{head} font-family="sans-serif" font-size="12">{"".join(body)}</svg>\n'


def measure(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Add the runs that are missing, and write the file after each."""
    seeds = [f"seed={seed}" for seed in arguments.seeds]
    wanted = [(config.stem, config, [seed]) for config in arguments.configs for seed in seeds]
    wanted.append((CONTROL, EXAMPLES / "flow_grpo.yaml", ["seed=0", "train.lr=0"]))
    for name, config, overrides in wanted:
        runs = found["runs"].setdefault(name, [])
        if any(run["overrides"] == overrides for run in runs):
            continue
        runs.append(trained(config, *overrides))
        print(name, runs[-1], flush=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run what is missing; write the page if one is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.yaml")))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    versions = {name: metadata.version(name) for name in ("omni-rl", "torch", "diffusers", "transformers")}
    start = {"cores": os.cpu_count(), "python": platform.python_version(), **versions, "runs": {}}
    found = json.loads(arguments.json.read_text()) if arguments.json.exists() else start
    measure(arguments, found)
    if arguments.page:
        image = arguments.page.parent / "images" / "algorithms.svg"
        image.write_text(curves(found["runs"]))
        arguments.page.write_text(page(found["runs"], f"images/{image.name}"))


if __name__ == "__main__":
    main()
