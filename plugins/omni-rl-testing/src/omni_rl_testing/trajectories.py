"""Functions of the suites that read trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample, Streams
from omni_rl.schedulers.randomness import draw_seed, randn
from omni_rl_testing.parts import Parts

FLOAT, WHOLE = torch.float32, torch.int64
MEDIA = {"image": (torch.uint8, 3), "video": (torch.uint8, 4), "audio": (FLOAT, 2)}


def found(sample: Sample) -> TensorDict:
    """The sample's trajectory; fails if the engine returned an error."""
    assert sample.trajectory is not None, sample.error
    return sample.trajectory


def final(batch: TensorDict) -> Streams:
    """Final latents per stream."""
    return {name: stored["final"] for name, stored in batch["latents"].items()}


def replayed(parts: Parts, batch: TensorDict) -> torch.Tensor:
    """Log-probs (N, T) of the stored steps, replayed in batches like the engine's."""
    steps = range(batch["timesteps"].shape[1])
    with torch.no_grad():
        rows = [
            torch.stack(
                [now.log_prob.cpu() for step in steps for now in parts.backend.policy.evaluate(part, [step])], dim=1
            )
            for part in batch.split(parts.config.rollout.batch_size)
        ]
    return torch.cat(rows)


def noises(parts: Parts, samples: Sequence[Sample]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each stored step and stream: the noise computed from the stored latents, and the noise from the keys."""
    batch = trajectory.collate(samples)
    for step in range(batch["timesteps"].shape[1]):
        with torch.no_grad():
            transitions = parts.backend.policy.evaluate(batch, [step])[0].transitions
        for stream, moved in transitions.items():
            following = batch["latents", stream, "all"][:, step + 1].to(moved.mean.device)
            named = [_named(sample.request, stream, step, following.shape[1:]) for sample in samples]
            yield ((following - moved.mean) / moved.std).cpu(), torch.stack(named)


def _named(request: Request, stream: str, step: int, shape: Sequence[int]) -> torch.Tensor:
    return randn(draw_seed(request.key, stream, request.window.start + step), shape)


def check_documented(sample: Sample) -> None:
    """Fail unless the trajectory has the keys, shapes and dtypes of :mod:`omni_rl.contracts.trajectory`."""
    rows, steps = found(sample), sample.request.window.size
    fixed = {
        "log_probs": (FLOAT, (steps,)),
        "timesteps": (FLOAT, (steps,)),
        "sigmas": (FLOAT, (steps + 1,)),
        **dict.fromkeys(("start", "uid", "sample_id", "policy_version"), (WHOLE, ())),
    }
    assert {name: (rows[name].dtype, tuple(rows[name].shape)) for name in fixed} == fixed
    for stream, latents in rows["latents"].items():
        assert latents["all"].shape == (steps + 1, *latents["final"].shape), stream
        seeds = [draw_seed(sample.request.key, stream, sample.request.window.start + step) for step in range(steps)]
        assert (rows["draws", stream].dtype, rows["draws", stream].tolist()) == (WHOLE, seeds), stream
    whole = {"timesteps": (sample.request.steps,), "sigmas": (sample.request.steps + 1,)}
    assert {name: tuple(value.shape) for name, value in rows["schedule"].items()} == whole
    others = {
        "latents",
        "draws",
        "schedule",
        "mask",
        "condition",
        "call",
        "media",
        "stream_sigmas",
        *trajectory.PROMPT_KEYS,
    }
    assert set(rows.keys()) <= {*fixed, *others}
    for key, value in rows.items(include_nested=True, leaves_only=True):
        floating = torch.float64 if "call" in key else FLOAT
        assert value.is_cpu, key
        assert value.dtype == floating or not value.is_floating_point(), key
        assert value.isfinite().all(), key
    for kind, media in rows.get("media", {}).items():
        assert (media.dtype, media.ndim) == MEDIA[kind], kind
