"""Model plugins against the universal adapter: one velocity through the plugin's own maths and through the pipeline.

Transformers of the published classes, thin and shallow, with random weights; ``rollout`` is a forward, ``replay`` a
forward and backward of rows at one timestep, ``own_timesteps`` the same of rows at four. Both sides take turns, on one
thread, and what is measured is the processor's time, which other programs on the machine disturb little. The velocities
are compared first.

    python benchmarks/model_plugins.py [--only ARCHITECTURE ...] [--pairs 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import diffusers
import torch
from model_plugin_cases import CASES, ROWS, Case

from omni_rl.contracts.model import LoadedModel
from omni_rl.model.loading import from_pipe
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.manager import Hooks, build_manager
from omni_rl.run import core_hooks

EQUAL = torch.full((ROWS,), 500.0)
OWN = torch.tensor([950.25, 702.5, 500.0, 311.0])


class Side:
    """Hooks of core, with or without the plugin."""

    def __init__(self, case: Case, model: LoadedModel, plugin: Any = None) -> None:
        layers = [Layer("core", core_hooks, "omni-rl"), *([Layer("model", plugin, "plugin")] if plugin else [])]
        self.model, self.call, self.conditioning = model, case.call, case.conditioning()
        if plugin and case.kept:
            self.conditioning = case.kept(model.pipe, self.conditioning)
        self.hooks = Hooks(build_manager(layers))
        model.hooks = self.hooks
        shapes = self.hooks.prepare_latents(model=model, conditioning=self.conditioning, call=self.call)
        generator = torch.Generator().manual_seed(0)
        self.x = {name: torch.randn(ROWS, *shape, generator=generator) for name, shape in shapes.items()}

    def velocity(self, t: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.hooks.predict(  # type: ignore[no-any-return]
            model=self.model, x=self.x, t=t, conditioning=self.conditioning, call=self.call
        )

    def rollout(self) -> None:
        with torch.no_grad():
            self.velocity(EQUAL)

    def replay(self, t: torch.Tensor = EQUAL) -> None:
        sum(v.square().mean() for v in self.velocity(t).values()).backward()

    def own_timesteps(self) -> None:
        self.replay(OWN)


def gap(ours: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the largest value."""
    return max(float((ours[n] - v).abs().max() / v.abs().max()) for n, v in own.items())


def in_turns(plugin: Callable[[], None], universal: Callable[[], None], pairs: int) -> dict[str, Any]:
    """Medians of both, and of the universal side's time over the plugin's, after one warm-up each."""
    plugin(), universal()
    rows = []
    for number in range(pairs):
        seconds = {}
        for function in (plugin, universal)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            function()
            seconds[function] = time.process_time() - started
        rows.append((seconds[plugin], seconds[universal]))
    ratios = sorted(b / a for a, b in rows)
    return {
        "plugin_s": round(statistics.median(a for a, _ in rows), 4),
        "universal_s": round(statistics.median(b for _, b in rows), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
    }


def measure(architecture: str, case: Case, pairs: int) -> dict[str, Any]:
    """All three figures of one architecture."""
    torch.manual_seed(0)
    model = from_pipe(case.pipe(), path=Path(), device=torch.device("cpu"))
    model.pipe.set_progress_bar_config(disable=True)
    for denoiser in model.denoisers.values():
        denoiser.requires_grad_(True)
    (entry,) = entry_points(group="omni_rl.models", name=architecture)
    plugin, universal = Side(case, model, entry.load()), Side(case, model)
    with torch.no_grad():
        found = {"gap": max(gap(plugin.velocity(t), universal.velocity(t)) for t in (EQUAL, OWN))}
    kinds = ("rollout", "replay", "own_timesteps")
    return found | {k: in_turns(getattr(plugin, k), getattr(universal, k), pairs) for k in kinds}


def main() -> None:
    """Print and, on request, write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
        "rows": ROWS,
        "note": arguments.note,
    }
    for name in arguments.only:
        figures[name] = measure(name, CASES[name], arguments.pairs)
        ratios = {k: v["ratio"] for k, v in figures[name].items() if k != "gap"}
        print(f"{name}: universal over plugin {ratios}, gap {figures[name]['gap']:.1e}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
