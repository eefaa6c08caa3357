"""Four architectures on one, two and four ranks, from stored trajectories and in whole runs: the results are equal.

Whole runs are compared with what rounding alone does to a run: one process with other sizes of its batches.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import whole_runs
from rank_jobs import LORA, MODES, UNCLIPPED, Jobs, Outcome, assert_as_alone, assert_equal_on_ranks, moved

from omni_rl_tiny import pipelines

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

ARCHITECTURES = {
    "QwenImagePipeline": "omni_rl_qwen_image",
    "FluxPipeline": "omni_rl_flux.flux1",
    "StableDiffusion3Pipeline": "omni_rl_sd3",
    "WanPipeline-two-experts": "omni_rl_wan",  # a video model with two denoisers
}
"""The plugin of each tiny pipeline."""

WORLDS = (2, 4)
RUN_MODES = {
    2: {"lora": "sharded", "full": "replicated"},
    4: {"lora": "replicated", "full": "sharded"},  # the default of ``train.sharding``
}
"""How the weights are held in whole runs; the first updates, which take less time, are tried in every way."""
SIZES = [(1, 2), (2, 1), (6, 4)]
"""``rollout.batch_size`` and ``train.micro_batch_size`` of the runs of one process; ranks have the first."""

FACTOR = 2
TINY = 1e-7  # a metric of size 1 in fp32
"""The largest distance of three runs is itself a matter of chance; another three differ by less than this factor."""

TOGETHER = {"mini_batch_prompts": None}
RAGGED: dict[str, dict[str, Any]] = {
    "five-samples": {"rollout": {"prompts": 1, "group_size": 5}, "train": TOGETHER},
    "two-samples": {"rollout": {"prompts": 1}, "train": TOGETHER},
    "unscored": {"reward": [{"name": "first_prompt_only"}], "train": TOGETHER},
    "flat": {"reward": [{"name": "alike"}], "algorithm": {"kl_beta": 0.04}},
    "flat-left-out": {"reward": [{"name": "alike"}], "train": {"skip_flat_groups": True}},
    "other-windows": {"algorithm": {"window_size": 1, "window_scope": "group"}},
}
"""What differs from the runs of all architectures. Groups with other windows need other experts at the same time."""

RAGGED_ON = {2: ("two-samples", "unscored"), 4: tuple(RAGGED)}
BOTH = ("replicated", "sharded")
STEPS = 3
BRIGHTNESS = [{"name": "brightness"}]
SHORT = "WanPipeline-two-experts"
"""The architecture of ragged runs, whose ranks may need other experts."""


def full_name(name: str, lora: bool, *more: object) -> str:
    return "-".join(map(str, (name, "lora" if lora else "full", *more)))


class Worlds:
    """The jobs of every number of ranks."""

    def __init__(self, folder: Path, tiny_folder: Any) -> None:
        self.folder, self.tiny_folder = folder, tiny_folder
        self.by_size = {}
        for size in (1, *WORLDS):
            (folder / str(size)).mkdir()
            self.by_size[size] = Jobs(folder / str(size), size)
        (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in whole_runs.PROMPTS))
        (folder / "watched.py").write_text(whole_runs.PLUGIN)

    def recipe(self, name: str, lora: bool) -> dict[str, Any]:
        """A run of five iterations with two updates each: mini-batches of four samples and of two."""
        return {
            "seed": 3,
            "plugins": [str(self.folder / "watched.py")],
            "model": {"path": str(self.tiny_folder(name)), **({"lora": LORA} if lora else {})},
            "algorithm": {"name": "watched", "clip_range": 1e-2},
            "rollout": {"steps": STEPS, "prompts": 3, "group_size": 2, "call": pipelines.call_of(name)},
            "reward": BRIGHTNESS,
            "data": {"path": str(self.folder / "prompts.txt"), "shuffle": False, "check": "off"},
            "train": {"iterations": 5, "lr": 1e-3, "mini_batch_prompts": 2},
            "validation": {"every": 0, "prompts": 1, "steps": 2},
            "device": "cpu",
            "gate": "off",
        }

    def add_run(self, key: str, recipe: dict[str, Any], modes: dict[int, tuple[str, ...]]) -> None:
        """A run of one process with each of ``SIZES``, and of ranks with weights held in each of the modes."""
        for batch, micro in SIZES:
            self.by_size[1].add(f"{key}-{batch}", run=sized(recipe, batch, micro))
        if recipe["reward"] == BRIGHTNESS:  # rounding that changes the level of a pixel changes a run the most
            changed = {**recipe, "reward": [{"name": "one_pixel_more", "label": "brightness"}]}
            self.by_size[1].add(f"{key}-pixel", run=sized(changed, *SIZES[0]))
        for world, each in modes.items():
            for sharding in each:
                self.by_size[world].add(f"{key}-{sharding}", run=sized(recipe, *SIZES[0], sharding=sharding))

    def add_updates(self, name: str, lora: bool) -> None:
        """One update from stored trajectories, in which one of four ranks has no rows."""
        key, start = full_name(name, lora), self.folder / f"{full_name(name, lora)}.safetensors"
        job = {"plugin": ARCHITECTURES[name], "folder": str(self.tiny_folder(name)), "call": pipelines.call_of(name)}
        job |= {"lora": LORA if lora else None, "batch": key, "updates": 0}
        batch = moved(job, start).batch()
        parts = {2: [batch[:4], batch[4:]], 4: [batch[:2], batch[2:4], None, batch[4:]]}
        for world in WORLDS:
            self.by_size[world].batch(key, parts[world])
            for sharding in BOTH:
                train = {**UNCLIPPED, "sharding": sharding}
                self.by_size[world].add(f"{key}-{sharding}-update", **job, load=str(start), train=train)

    def run(self) -> None:
        """Do all jobs; one process and two ranks at the same time."""
        for size in (1, 2):
            self.by_size[size].start()
        for size in (1, 2):
            self.by_size[size].wait(1200)
        self.by_size[4].start()
        self.by_size[4].wait(1200)

    def alone(self, key: str) -> list[Outcome]:
        """The runs of one process."""
        names = [f"{key}-{batch}" for batch, _ in SIZES] + [f"{key}-pixel"]
        jobs = self.by_size[1]
        return [jobs.outcomes(name)[0] for name in names if name in jobs.numbers]


def sized(recipe: dict[str, Any], batch: int, micro: int, **train: Any) -> dict[str, Any]:
    """The recipe with these sizes."""
    changed = copy.deepcopy(recipe)
    changed["rollout"]["batch_size"] = batch
    changed["train"] |= {"micro_batch_size": micro, **train}
    return changed


@pytest.fixture(scope="module")
def worlds(tiny_folder, tmp_path_factory) -> Worlds:
    """All jobs of this module, done."""
    made = Worlds(tmp_path_factory.mktemp("worlds"), tiny_folder)
    for name in ARCHITECTURES:
        for lora in (True, False):
            made.add_updates(name, lora)
            modes = {world: (RUN_MODES[world]["lora" if lora else "full"],) for world in WORLDS}
            made.add_run(full_name(name, lora), made.recipe(name, lora), modes)
    add_ragged(made)
    made.run()
    return made


def add_ragged(worlds: Worlds) -> None:
    """Runs of two iterations."""
    for name, changes in RAGGED.items():
        recipe = worlds.recipe(SHORT, lora=False)
        for section, values in changes.items():
            recipe[section] = {**recipe[section], **values} if isinstance(values, dict) else values
        recipe["train"]["iterations"] = 2
        worlds.add_run(name, recipe, {world: BOTH for world in WORLDS if name in RAGGED_ON[world]})


def distance(one: Outcome, other: Outcome) -> dict[str, float]:
    """How far the metrics of a run are from another's, and its weights (``policy``, in all and at most)."""
    found: dict[str, float] = {}
    assert len(one.said["figures"]) == len(other.said["figures"])
    for row, same in zip(one.said["figures"], other.said["figures"], strict=True):
        assert row.keys() == same.keys()
        for name, value in row.items():
            found[name] = max(found.get(name, 0.0), abs(value - same[name]))
    if any(name.startswith("policy/") for name in one.tensors):
        gap = one.group("policy") - other.group("policy")
        found |= {"policy": float(gap.norm()), "policy_max": float(gap.abs().max())}
    return found


def assert_within_rounding(alone: list[Outcome], found: Outcome) -> None:
    """The run is no further from that of one process than its runs with other sizes of batches are, or one in which a
    pixel differs: whether rounding does that to one of a few runs is chance.
    """
    allowed: dict[str, float] = {}
    for other in alone[1:]:
        for name, gap in distance(alone[0], other).items():
            allowed[name] = max(allowed.get(name, 0.0), gap)
    gaps = distance(alone[0], found)
    assert gaps.keys() == allowed.keys()
    assert {n: (gap, allowed[n]) for n, gap in gaps.items() if gap > FACTOR * allowed[n] + TINY} == {}


def drawn(outcomes: list[Outcome]) -> dict[str, torch.Tensor]:
    """The trajectories of the first iteration, of all ranks."""
    return {n: t for each in outcomes for n, t in each.tensors.items() if n.startswith("drawn/")}


def assert_same_draws(alone: Outcome, ranks: list[Outcome]) -> None:
    """What is drawn is equal to the bit: noise, its seeds, windows, texts. What the denoiser computes of it is equal
    but for rounding, which depends on where its operands lie in memory.
    """
    expected, found = drawn([alone]), drawn(ranks)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        key = json.loads(name.removeprefix("drawn/"))[1:]
        if key[0] == "latents" and key[-1] == "all":
            assert torch.equal(found[name][0], value[0]), name
        if key[0] in ("latents", "log_probs", "rewards"):
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5 * max(1.0, float(value.abs().max())))
        else:
            assert torch.equal(found[name], value), name


CASES = [(name, lora, sharding) for name in ARCHITECTURES for lora, sharding in MODES]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("name", "lora", "sharding"), CASES)
def test_the_first_update_is_that_of_one_process(worlds, name, lora, sharding, world):
    jobs, key = worlds.by_size[world], full_name(name, lora, sharding, "update")
    assert_equal_on_ranks(jobs, key)
    assert_as_alone(jobs, key)
    alone, one = jobs.alone(key).said["figures"][0], jobs.outcomes(key)[0].said["figures"][0]
    assert one["actor/loss"] == pytest.approx(alone["actor/loss"], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whole_runs_are_those_of_one_process(worlds, name, lora, world):
    key = full_name(name, lora)
    ranks, alone = worlds.by_size[world].outcomes(f"{key}-{RUN_MODES[world][key.split('-')[-1]]}"), worlds.alone(key)
    assert len({str(each.said["figures"]) for each in ranks}) == 1
    assert_same_draws(alone[0], ranks)
    assert_within_rounding(alone, ranks[0])
    assert_few_rows_more(alone[0], ranks)


@pytest.mark.parametrize("sharding", BOTH)
@pytest.mark.parametrize(("world", "name"), [(world, name) for world in WORLDS for name in RAGGED_ON[world]])
def test_ragged_runs_are_those_of_one_process(worlds, name, sharding, world):
    ranks, alone = worlds.by_size[world].outcomes(f"{name}-{sharding}"), worlds.alone(name)
    assert len({str(each.said["figures"]) for each in ranks}) == 1
    assert_same_draws(alone[0], ranks)
    assert_within_rounding(alone, ranks[0])


def assert_few_rows_more(alone: Outcome, ranks: list[Outcome]) -> None:
    """The denoisers compute the rows of one process, and in each micro-batch fewer than the ranks that do not count."""
    counted = alone.said["counted"]
    zero = [sum(each) for each in itertools.zip_longest(*(r.said["zero"] for r in ranks), fillvalue=0)]
    calls, rest = divmod(alone.said["trained"], counted)  # rows of the denoiser for a row of the batch
    assert rest == 0
    assert sum(each.said["trained"] for each in ranks) == alone.said["trained"] + calls * sum(zero)
    assert all(each < len(ranks) for each in zero)
