"""Samples of a group that share their initial noise are one sample until their window opens."""

from __future__ import annotations

import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.sampling.denoise import sharing
from omni_rl_testing.parts import assemble
from omni_rl_testing.toy import PolicyGradient, toy_model
from omni_rl_testing.trajectories import replayed


class Late(PolicyGradient):
    """The window of a group opens at step 2 or 3 of 6."""

    @hookimpl
    def sde_window(self, group):
        return Window(2 + group % 2, 4 + group % 2)


@pytest.fixture
def parts():
    rollout = {"steps": 6, "group_size": 4, "batch_size": 12, "share_initial_noise": True}
    found = assemble(toy_model(), algorithm=Late(), rollout=rollout)
    found.nudge()
    return found


def rows_of(parts, monkeypatch) -> list[int]:
    """How many rows each call of the denoiser had."""
    rows, denoiser = [], type(parts.model.pipe.transformer)
    forward = denoiser.forward

    def counted(self, hidden_states, *rest, **named):
        rows.append(len(hidden_states))
        return forward(self, hidden_states, *rest, **named)

    monkeypatch.setattr(denoiser, "forward", counted)
    return rows


def test_steps_before_the_window_are_taken_once_per_group(parts, monkeypatch):
    parts.draw(parts.requests())  # schedules and shapes are found out
    rows = rows_of(parts, monkeypatch)
    parts.draw(parts.requests())
    assert rows == [3, 3, 12, 12, 12, 12]


def test_the_samples_are_those_that_would_be_drawn_apart(parts):
    requests = parts.requests()
    together = parts.draw(requests)
    alone = [sample for request in requests for sample in parts.draw([request])]
    for a, b in zip(together, alone, strict=True):
        for name in ("all", "final"):
            ours, own = (sample.trajectory["latents", "x", name] for sample in (a, b))
            torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-6)
        assert torch.equal(a.trajectory["draws", "x"], b.trajectory["draws", "x"])
        assert a.request == b.request


def test_stored_log_probs_replay_to_the_bit(parts):
    batch = trajectory.collate(parts.draw(parts.requests()))
    assert torch.equal(replayed(parts, batch), batch["log_probs"])


def test_whoever_does_not_share_is_left_alone(parts):
    requests = parts.requests()
    assert len(sharing(requests)) == 3
    apart = assemble(toy_model(), algorithm=Late(), rollout={"steps": 6, "group_size": 4})
    assert sharing(apart.requests()) == apart.requests()
    early = assemble(toy_model(), rollout={"steps": 6, "group_size": 4, "share_initial_noise": True})
    assert sharing(early.requests()) == early.requests()
