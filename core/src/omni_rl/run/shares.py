"""Sample and score the requests of one iteration or validation on all ranks.

Each data rank (:mod:`omni_rl.parallel.layout`) samples and scores its share. Then every rank knows all rewards, and
each trajectory is on one data rank. With one rank, all of it is :func:`omni_rl.run.collect.collect`.

Ranks that share each sample draw the same ones. Only the first of them scores, because a reward may answer twice
differently; and its trajectories replace those of the others, so that all of them train with the same bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.parcels import pack, unpack
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import NOT_FINITE, Sample
from omni_rl.parallel.exchange import exchanged, from_first, gathered
from omni_rl.parallel.group import rank, world_size
from omni_rl.parallel.layout import data_ranks, sequence_ranks
from omni_rl.rewards.runner import RewardRunner, Scored
from omni_rl.run.collect import Collected, collect, score
from omni_rl.run.dealing import owners_of, ranks_of
from omni_rl.run.together import drawn_together
from omni_rl.sampling.stream import finished_groups, refuse_all_broken

InStep = Callable[[], contextlib.AbstractContextManager[None]]
Rows = dict[int, TensorDict]
"""Trajectories by sample id."""


class Deal(NamedTuple):
    """Which rank draws each request, which rank owns each group, and the context for forwards."""

    ranks: Sequence[int]
    owners: Mapping[int, int]
    in_step: InStep


def collect_training(
    engine: Engine,
    rewards: RewardRunner,
    requests: Sequence[Request],
    groups_together: int | None,
    in_step: InStep = contextlib.nullcontext,
) -> Collected:
    """All samples of an iteration. The trajectories of a group are on the rank that trains with it, without media.

    Args:
        in_step: see :class:`omni_rl.contracts.model.LoadedModel`.
        groups_together: the number of groups in a mini-batch; None: all.
    """
    if world_size() == 1:
        return collect(engine, rewards, requests)
    ranks = ranks_of(requests, groups_together, data_ranks().size)
    owners = owners_of(requests, ranks)
    drawn = _collect(engine, rewards, requests, Deal(ranks, owners, in_step))
    rows = {s.request.sample_id: s.trajectory.exclude("media") for s in _samples(drawn) if s.trajectory is not None}
    return _known_to_all(requests, drawn, _shared(_sent(rows, {r.sample_id: owners[r.uid] for r in requests})))


def collect_validation(
    engine: Engine,
    rewards: RewardRunner,
    requests: Sequence[Request],
    whole: int,
    in_step: InStep = contextlib.nullcontext,
) -> Collected:
    """All samples of a validation. Media are on data rank 0, and the whole trajectories of the first ``whole``."""
    if world_size() == 1:
        return collect(engine, rewards, requests)
    ranks = ranks_of(requests, None, data_ranks().size)
    drawn = _collect(engine, rewards, requests, Deal(ranks, owners_of(requests, ranks), in_step))
    shown = {r.sample_id for r in requests[:whole]}
    rows = {
        s.request.sample_id: s.trajectory if s.request.sample_id in shown else s.trajectory.select("media")
        for s in _samples(drawn)
        if s.trajectory is not None
    }
    return _known_to_all(requests, drawn, _shared(_sent(rows, {r.sample_id: 0 for r in requests})))


def batch_here(valid: Sequence[Scored], advantages: torch.Tensor) -> TensorDict:
    """The trajectories (M,) of the samples that are on this rank, with their ``rewards`` and ``advantages`` (M,) fp32.

    A rank that holds none gets an empty batch with the keys and shapes of another rank's.
    """
    here = torch.tensor([is_here(s.sample) for s in valid])
    samples = [s.sample for s in valid if is_here(s.sample)]
    batch = trajectory.collate(at_least_one(samples, valid[0].sample.request), widest)
    if not samples:
        batch = batch[:0]
    batch["rewards"] = torch.tensor([s.value for s in valid], dtype=torch.float32)[here]
    batch["advantages"] = advantages[here]
    return batch


def at_least_one(samples: list[Sample], request: Request) -> list[Sample]:
    """The samples of this rank; if there are none, one of another rank."""
    counts = gathered(len(samples))
    if all(counts):
        return samples
    donor = next(number for number, count in enumerate(counts) if count)
    gift = pack([s.trajectory for s in samples[:1] if s.trajectory is not None]) if rank() == donor else b""
    received = unpack(exchanged([b"" if count else gift for count in counts])[donor])
    return samples or [Sample(request, row) for row in received]


def widest(widths: dict[str, int]) -> dict[str, int]:
    """The largest width of each entry on any rank."""
    largest: dict[str, int] = {}
    for part in gathered(widths):
        for name, width in part.items():
            largest[name] = max(width, largest.get(name, 0))
    return largest


def is_here(sample: Sample) -> bool:
    """Whether the sample was drawn, and its trajectory is on this rank."""
    return sample.trajectory is not None and len(sample.trajectory.keys()) > 0


def _samples(collected: Collected) -> list[Sample]:
    return [scored.sample for scored in collected.scored]


def _collect(engine: Engine, rewards: RewardRunner, requests: Sequence[Request], deal: Deal) -> Collected:
    """This rank's share, scored. A group is scored on one rank if a reward compares its samples."""
    mine = [request for request, number in zip(requests, deal.ranks, strict=True) if number == data_ranks().rank]

    def groups() -> Iterator[list[Sample]]:
        with deal.in_step():
            if mine:
                yield from finished_groups(engine, mine)
            elif deal.in_step is not contextlib.nullcontext:  # a rank without samples helps the others' forwards
                list(finished_groups(engine, requests[:1]))

    alone = deal.in_step is contextlib.nullcontext and sequence_ranks().size == 1
    if not any(spec.reward.scope == "group" for spec in rewards.specs):
        return drawn_together(lambda: _score_once(rewards, groups()), alone)
    started = time.perf_counter()
    samples = drawn_together(lambda: _kept_once([sample for group in groups() for sample in group]), alone)
    drawn = {s.request.sample_id: s.trajectory for s in samples if s.trajectory is not None}
    errors = {s.request.sample_id: s.error for s in samples if s.error is not None}
    rows = _sent(drawn, {r.sample_id: deal.owners[r.uid] for r in requests})
    failed = {int(number): why for each in gathered(errors) for number, why in each.items()}
    own = [r for r in requests if deal.owners[r.uid] == data_ranks().rank]
    whole = [Sample(r, rows.get(r.sample_id), failed.get(r.sample_id)) for r in own]
    return drawn_together(lambda: _score_once(rewards, [whole], time.perf_counter() - started))


def _score_once(rewards: RewardRunner, groups: Iterable[Sequence[Sample]], before_s: float = 0.0) -> Collected:
    """The scores of these groups, on the first of the ranks that share each sample; others only draw."""
    if sequence_ranks().rank == 0:
        return score(rewards, groups, before_s)
    for _ in groups:
        pass
    return Collected([], [], 0.0, 0.0)


def _kept_once(samples: list[Sample]) -> list[Sample]:
    return samples if sequence_ranks().rank == 0 else []


def _sent(rows: Rows, target: Mapping[int, int]) -> Rows:
    """Send each trajectory to its data rank; returns those that are now on this one."""
    ranks = data_ranks()
    kept = {number: row for number, row in rows.items() if target[number] == ranks.rank}
    leaving: list[list[int]] = [[] for _ in range(ranks.size)]
    for number in sorted(rows.keys() - kept.keys()):
        leaving[target[number]].append(number)
    arrived = exchanged([pack([_labelled(number, rows[number]) for number in each]) for each in leaving], ranks)
    return kept | _labelled_rows(arrived)


def _shared(rows: Rows) -> Rows:
    """The trajectories of the first of the ranks that share each sample."""
    ranks = sequence_ranks()
    if ranks.size == 1:
        return rows
    parcel = pack([_labelled(number, row) for number, row in rows.items()]) if ranks.rank == 0 else b""
    arrived = from_first(parcel, ranks)
    return rows if ranks.rank == 0 else _labelled_rows([arrived])


def _labelled_rows(parcels: Iterable[bytes]) -> Rows:
    return {int(row[_LABEL]): row.exclude(_LABEL) for parcel in parcels for row in unpack(parcel)}


_LABEL = "parcel/sample_id"


def _labelled(number: int, row: TensorDict) -> TensorDict:
    labelled = row.copy()
    labelled[_LABEL] = torch.tensor(number)
    return labelled


def _known_to_all(requests: Sequence[Request], drawn: Collected, rows: Rows) -> Collected:
    """The samples of all ranks, with their rewards; a trajectory that is on another rank is an empty one here."""
    told = gathered(
        {
            "scored": [_told(each) for each in drawn.scored],
            "failures": drawn.failures,
            "seconds": [drawn.rollout_s, drawn.reward_s],
        }
    )
    by_id = {each["id"]: each for part in told for each in part["scored"]}
    assert sorted(by_id) == sorted(request.sample_id for request in requests)
    broken = sum(each["error"] == NOT_FINITE for each in by_id.values())
    refuse_all_broken(broken, len(requests))
    scored = [_scored(request, by_id[request.sample_id], rows) for request in sorted(requests, key=_sample_id)]
    rollout_s, reward_s = (max(part["seconds"][place] for part in told) for place in (0, 1))
    return Collected(scored, [text for part in told for text in part["failures"]], rollout_s, reward_s)


def _sample_id(request: Request) -> int:
    return request.sample_id


def _told(scored: Scored) -> dict[str, Any]:
    sample = scored.sample
    return {
        "id": sample.request.sample_id,
        "drawn": sample.trajectory is not None,
        "error": sample.error,
        "value": scored.value,
        "components": scored.components,
    }


def _scored(request: Request, told: Mapping[str, Any], rows: Rows) -> Scored:
    elsewhere = TensorDict({}, []) if told["drawn"] else None
    sample = Sample(request, rows.get(request.sample_id, elsewhere), told["error"])
    return Scored(sample, told["value"], told["components"])
