from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from omni_rl.schedulers.randomness import INITIAL, ForbiddenGenerator, draw_seed, randn, randn_rows, seed_of
from omni_rl.schedulers.types import NoiseKey

KEY = NoiseKey(run_seed=0, purpose="rollout", iteration=3, group=1, sample=2)

GOLDEN_SEEDS = {
    (KEY, "x", INITIAL): 299697363665701515,
    (KEY, "x", 0): 3715431638884176109,
    (KEY, "audio", 9): 1248564571207726142,
    (NoiseKey(2**31, "validation", 0, 0, -1), "x", INITIAL): 4128648423935503356,
}


def test_the_mapping_from_keys_to_seeds_is_part_of_the_contract():
    """Every run that anyone repeats depends on these numbers."""
    assert {key: draw_seed(*key) for key in GOLDEN_SEEDS} == GOLDEN_SEEDS


def test_a_seed_is_63_bits_of_blake2b_over_the_joined_parts():
    digest = hashlib.blake2b(b"0|rollout|3|1|2|x|4", digest_size=8).digest()
    assert draw_seed(KEY, "x", 4) == int.from_bytes(digest, "little") // 2
    assert all(0 <= seed_of("n", i) < 2**63 for i in range(1000))


def test_golden_draw():
    """torch's CPU generator is the other half of the contract."""
    assert randn(seed_of("golden"), (4,)).tolist() == pytest.approx(
        [0.67580038, -0.64661032, -1.23452330, 0.20644358], rel=1e-6
    )


def test_draws_are_standard_normal():
    draws = torch.cat([randn_rows([key], "x", step, (64, 64)).flatten() for key in keys(5) for step in range(5)])
    n = draws.numel()  # 512,000
    assert draws.dtype == torch.float32
    assert abs(draws.mean()) < 5 / math.sqrt(n)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / n)
    for z, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        inside = (draws.abs() < z).float().mean().item()
        assert abs(inside - share) < 5 * math.sqrt(share * (1 - share) / n) + 5e-5


def keys(samples: int) -> list[NoiseKey]:
    return [NoiseKey(0, "rollout", 0, i // 2, i) for i in range(samples)]


def test_every_draw_is_its_own():
    """Members of a group, groups, iterations, steps, streams, purposes, runs: pairwise uncorrelated."""
    names = list(itertools.product((0, 1), ("rollout", "validation"), (0, 1), (0, 1), (0, 1, 2)))
    rows = [
        randn(draw_seed(NoiseKey(*name), stream, step), (4096,))
        for name in names
        for stream in ("x", "audio")
        for step in (INITIAL, 0, 1)
    ]
    correlations = torch.corrcoef(torch.stack(rows).double()).fill_diagonal_(0)  # (288, 288)
    assert len(rows) == 288
    assert correlations.abs().max() < 6 / math.sqrt(4096)


def test_adjacent_keys_do_not_run_into_each_other():
    """Joined without a separator, sample 11 of group 1 would be sample 1 of group 11."""
    assert draw_seed(NoiseKey(0, "a", 0, 1, 11), "x", 0) != draw_seed(NoiseKey(0, "a", 0, 11, 1), "x", 0)
    assert seed_of(1, 11) != seed_of(11, 1) != seed_of(111)


def test_a_hundred_thousand_seeds_do_not_collide():
    seeds = {seed_of(0, "rollout", i // 256, i % 256, s) for i in range(5_000) for s in range(20)}
    assert len(seeds) == 100_000


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_row_depends_on_its_key_alone(workers):
    """Whatever batch, order or worker it is drawn in: peers that seeded by local row gave workers the same noise."""
    everything = randn_rows(keys(8), "x", 2, (3, 5))
    shards = [randn_rows(keys(8)[worker::workers], "x", 2, (3, 5)) for worker in range(workers)]
    for worker, shard in enumerate(shards):
        assert torch.equal(shard, everything[worker::workers])
    assert torch.equal(randn_rows(keys(8)[::-1], "x", 2, (3, 5)), everything.flip(0))


def test_drawing_touches_no_generator_state():
    before = torch.get_rng_state()
    randn_rows(keys(3), "x", 0, (100,))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.ci
def test_another_process_draws_the_same():
    code = "from omni_rl.schedulers.randomness import *; print(randn(seed_of('golden'), (4,)).tolist())"
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(randn(seed_of("golden"), (4,)).tolist())


@pytest.mark.parametrize(
    "use",
    [
        lambda generator: torch.randn(2, generator=generator),
        lambda generator: randn_tensor((2,), generator=generator),
        lambda generator: generator.manual_seed(0),
        lambda generator: generator.get_state(),
        lambda generator: torch.nn.init.normal_(torch.empty(2), generator=generator),
    ],
    ids=["torch.randn", "diffusers", "manual_seed", "get_state", "init"],
)
def test_a_forbidden_generator_refuses_to_draw(use):
    with pytest.raises((AssertionError, TypeError), match=r"must come from a key|ForbiddenGenerator"):
        use(ForbiddenGenerator())
