"""Random draws are named, not counted: ``randn(key)`` is a function of its key and of nothing else.

A draw is made on the CPU in fp32, per (sample, stream, step), so it is bit-equal for any batch size, batching mode,
engine, device and number of workers. No generator state is kept or shipped.

The seed of a key is the first eight bytes (little endian) of BLAKE2b over the UTF-8 text
``run_seed|purpose|iteration|group|sample|stream|step``, less the lowest bit. This mapping is part of the contract:
changing it changes every run, and needs a new contract major.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from omni_rl.schedulers.types import NoiseKey

INITIAL = "initial"
"""The step name of x_T, the draw that starts a trajectory."""


def seed_of(*parts: object) -> int:
    """The 63-bit seed named by ``parts`` (63, because some consumers take a signed integer)."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draw_seed(key: NoiseKey, stream: str, step: int | str) -> int:
    """The seed of one draw of one sample."""
    return seed_of(key.run_seed, key.purpose, key.iteration, key.group, key.sample, stream, step)


def randn(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal fp32 tensor of ``shape`` on the CPU, a function of ``seed`` alone."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def randn_rows(keys: Sequence[NoiseKey], stream: str, step: int | str, shape: Sequence[int]) -> torch.Tensor:
    """(B, *shape) fp32 on the CPU; row i depends on ``keys[i]`` only, never on its neighbours."""
    return torch.stack([randn(draw_seed(key, stream, step), shape) for key in keys])


class ForbiddenGenerator:
    """Given to pipelines and engines in place of a generator: no draw may come from anywhere but a key.

    Not a ``torch.Generator``: torch would draw from one without asking any Python code.

    Raises:
        AssertionError: any attribute is asked for (diffusers' ``randn_tensor`` does). TypeError: torch is to draw.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)  # protocols that Python and torch look for in any object
        raise AssertionError(f"a pipeline asked its generator for {name!r}: every draw must come from a declared key")
