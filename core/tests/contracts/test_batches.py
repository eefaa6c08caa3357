"""Samples of several sizes in one batch."""

from __future__ import annotations

import torch
from tensordict import LazyStackedTensorDict, TensorDict

from omni_rl.contracts import batches


def row(uid: int, width: int, scale: float = 1.0) -> TensorDict:
    return TensorDict(
        {
            "uid": torch.tensor(uid),
            "latents": {"x": {"final": torch.full((width,), float(uid))}},
            "call": {"scale": torch.tensor(scale, dtype=torch.float64)},
        },
        batch_size=[],
    )


def test_rows_of_one_form_are_one_plain_batch():
    batch = batches.stacked([row(0, 4), row(1, 4)])
    assert not isinstance(batch, LazyStackedTensorDict)
    ((places, part),) = batches.forms(batch)
    assert part is batch
    assert places.tolist() == [0, 1]


def test_rows_differ_by_shape_and_by_the_pipelines_arguments():
    batch = batches.stacked([row(0, 4), row(1, 6), row(2, 4), row(3, 4, scale=2.0)])
    assert [places.tolist() for places, _ in batches.forms(batch)] == [[0, 2], [1], [3]]


def test_micro_batches_hold_one_form_and_all_rows():
    batch = batches.stacked([row(i, 4 + i % 2) for i in range(7)])
    parts = list(batches.parts(batch, 2))
    assert [places.tolist() for places, _ in parts] == [[0, 2], [4, 6], [1, 3], [5]]
    for places, part in parts:
        assert part["uid"].tolist() == places.tolist()
        assert part["latents", "x", "final"].shape[0] == len(places)


def test_figures_come_back_in_the_batchs_order():
    batch = batches.stacked([row(i, 4 + i % 3) for i in range(8)])
    found = batches.in_parts(batch, 2, lambda part: {"mean": part["latents", "x", "final"].mean(1)})["mean"]
    assert found.tolist() == [float(i) for i in range(8)]


def test_a_change_keeps_the_order_of_groups_and_may_drop_rows():
    batch = batches.stacked([row(uid, 4 + uid % 2) for uid in (5, 5, 2, 2, 9, 9)])
    changed = batches.change(batch, lambda rows: rows[::2])
    assert changed["uid"].tolist() == [5, 2, 9]
    assert batches.change(batch, lambda rows: rows)["uid"].tolist() == [5, 5, 2, 2, 9, 9]
