"""What omni-rl costs on top of the work itself.

``iteration``: time of a quickstart iteration over the time of a bare PyTorch loop that makes the same transformer
calls, decodes, scores and updates, in turns in one process. Bar: <= 1.05.

``replay``: time of the universal adapter's velocity (one single-step call of the pipeline) over the time of the bare
transformer call, forward and backward, at a realistic size. Bar: <= 1.1.

    python benchmarks/overhead.py [--pairs 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from omni_rl.config.resolve import resolve
from omni_rl.contracts.events import State
from omni_rl.contracts.media import Media, quantise
from omni_rl.contracts.reward import RewardBatch
from omni_rl.run.assembly import Assembly, assemble
from omni_rl.run.loop import one_iteration

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
GROUPS, MEMBERS, BATCH, STEPS, WINDOW = 8, 12, 48, 8, 3


class BareLoop:
    """The quickstart's iteration as one would write it by hand: no requests, trajectories, streams or hooks."""

    def __init__(self, run: Assembly) -> None:
        self.run = run
        pipe = run.model.pipe
        self.transformer, self.vae, self.pipe = pipe.transformer, pipe.vae, pipe
        self.reward = run.resolved.rewards[0].instance()
        self.optimizer = torch.optim.AdamW([p for p in self.transformer.parameters() if p.requires_grad], lr=0.0)
        pipe.scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)], mu=0.5)
        self.sigmas = pipe.scheduler.sigmas.clone()
        self.shapes = [[(1, 4, 8)]] * BATCH

    def __call__(self) -> None:
        rows = [row for row in self.run.prompts.rows[:GROUPS] for _ in range(MEMBERS)]
        pictures, kept = [], []
        for start in range(0, len(rows), BATCH):
            final, stored = self.rollout([r.prompt for r in rows[start : start + BATCH]])
            pictures.append(self.decode(final))
            kept.append(stored)
        images = torch.cat(pictures).numpy()
        batch = RewardBatch(
            media=[{"image": Media("image", image)} for image in images],
            prompts=[r.prompt for r in rows],
            metadata=[r.metadata for r in rows],
            uids=[i // MEMBERS for i in range(len(rows))],
        )
        rewards = torch.tensor(list(self.reward.score(batch))).view(GROUPS, MEMBERS)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + 1e-4)).flatten()
        for stored, part in zip(kept, advantages.split(BATCH), strict=True):
            self.update(stored, part)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        return self.transformer(
            hidden_states=x,
            timestep=sigma.expand(len(x)),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=None,
            img_shapes=self.shapes,
            return_dict=False,
        )[0]

    def step(self, x: torch.Tensor, v: torch.Tensor, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        s, n = self.sigmas[i], self.sigmas[i + 1]
        g = torch.sqrt(s / (1 - (n if s == 1 else s)))
        mean = x * (1 + g**2 / (2 * s) * (n - s)) + v * (1 + g**2 * (1 - s) / (2 * s)) * (n - s)
        return mean, g * torch.sqrt(s - n)

    @torch.no_grad()
    def rollout(self, prompts: list[str]) -> tuple[torch.Tensor, list[Any]]:
        unique = list(dict.fromkeys(prompts))
        embeds, _ = self.pipe.encode_prompt(unique)
        embeds = embeds[[unique.index(p) for p in prompts]]
        x, stored = torch.randn(len(prompts), 32, 12), []
        for i in range(STEPS):
            v = self.velocity(x, self.sigmas[i], embeds)
            if i < WINDOW:
                mean, std = self.step(x, v, i)
                following = mean + std * torch.randn_like(x)
                stored.append((x, following, embeds, self.log_prob(mean, std, following)))
            else:
                following = x + (self.sigmas[i + 1] - self.sigmas[i]) * v
            x = following
        return x, stored

    @staticmethod
    def log_prob(mean: torch.Tensor, std: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(mean, std).log_prob(x).flatten(1).mean(1)

    @torch.no_grad()
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        latents = self.pipe._unpack_latents(x, 32, 64, self.pipe.vae_scale_factor)
        config = self.vae.config
        std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
        pixels = self.vae.decode(latents * std + torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)).sample[:, :, 0]
        return quantise("image", pixels / 2 + 0.5)

    def update(self, stored: list[Any], advantages: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        for i, (x, following, embeds, old) in enumerate(stored):
            mean, std = self.step(x, self.velocity(x, self.sigmas[i], embeds), i)
            ratio = torch.exp(self.log_prob(mean, std, following) - old)
            loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - 1e-3, 1 + 1e-3))
            (loss.sum() / (len(stored) * len(x))).backward()
        torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        self.optimizer.step()


def paired(ours: Callable[[], Any], bare: Callable[[], Any], pairs: int) -> dict[str, Any]:
    """Medians of both and of the ratio, measured in turns after one warm-up each."""
    ours(), bare()
    rows = []
    for _ in range(pairs):
        seconds = []
        for function in (ours, bare):
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
        rows.append(seconds)
    ratios = sorted(a / b for a, b in rows)
    return {
        "ours_s": statistics.median(r[0] for r in rows),
        "bare_s": statistics.median(r[1] for r in rows),
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 4) for r in ratios],
    }


def iteration(pairs: int) -> dict[str, Any]:
    """A quickstart iteration with ``train.lr=0``, so that both do the same work throughout."""
    run = assemble(resolve(QUICKSTART, ["train.lr=0", "gate=off"]))
    with contextlib.closing(run):
        return paired(lambda: one_iteration(run, State(), print), BareLoop(run), pairs)


def replay(pairs: int) -> dict[str, Any]:
    """The universal adapter against the bare transformer at hidden 768, 8 layers, 1024 image tokens, 64 text tokens."""
    from replay_size import build_pair

    ours, bare = build_pair()
    return paired(ours, bare, pairs)


def main() -> None:
    """Print and, on request, write both figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, measure in (("iteration", iteration), ("replay", replay)):
        figures[name] = measure(arguments.pairs)
        print(name, figures[name], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
