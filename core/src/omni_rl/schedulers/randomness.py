"""Random draws by key: the value of a draw depends only on its key, not on earlier draws.

Every draw is made on the CPU in fp32, separately for each (sample, stream, step). So it is equal to the bit for any
batch size, batching mode, engine, device and number of workers. No generator state is stored or sent.

The seed of a key is the first eight bytes (little endian) of BLAKE2b over the UTF-8 text
``run_seed|purpose|iteration|group|sample|stream|step``, without the lowest bit. This mapping is part of the contract:
a change would change every run, and needs a new major version of the contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from omni_rl.schedulers.types import NoiseKey

INITIAL = "initial"
"""The step name of x_T, the draw that starts a trajectory."""


def seed_of(*parts: object) -> int:
    """The 63-bit seed of the key ``parts`` (63 bits, because some users of a seed need a signed integer)."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draw_seed(key: NoiseKey, stream: str, step: int | str) -> int:
    """The seed of one draw of one sample."""
    return seed_of(key.run_seed, key.purpose, key.iteration, key.group, key.sample, stream, step)


def randn(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal fp32 tensor of ``shape`` on the CPU; depends only on ``seed``."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def randn_rows(keys: Sequence[NoiseKey], stream: str, step: int | str, shape: Sequence[int]) -> torch.Tensor:
    """(B, *shape) fp32 on the CPU; row i depends only on ``keys[i]``, not on other rows."""
    return torch.stack([randn(draw_seed(key, stream, step), shape) for key in keys])


class ForbiddenGenerator:
    """Pipelines and engines receive it in place of a generator, because every draw must come from a key.

    It is not a ``torch.Generator``, because torch would draw from one without calling Python code.

    Raises:
        AssertionError: code reads any attribute (diffusers' ``randn_tensor`` does).
        TypeError: torch draws from it.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)  # Python and torch look for special methods in any object
        raise AssertionError(f"a pipeline read {name!r} of its generator, but every draw must come from a key")
