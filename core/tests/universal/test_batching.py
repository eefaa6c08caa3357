"""Rows at different timesteps: the three ways of batching agree, and only a way that was measured is used."""

from __future__ import annotations

import pytest
import torch
from model_cases import own_loop, still

from omni_rl.contracts.call import frozen
from omni_rl.universal.batching import fastest_mode, in_rows

X = {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), "audio": torch.arange(10.0).view(5, 2)}
T = torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0])
CONDITIONING = {"embeds": torch.arange(5.0)[:, None]}


def answers(x, t, conditioning):
    """A velocity of row, timestep and conditioning; takes 0-d and (B,) timesteps."""
    rows = torch.as_tensor(t).expand(len(x["x"]))[:, None]
    return {name: value * rows + conditioning["embeds"] for name, value in x.items()}


def scalar_only(x, t, conditioning):
    if t.ndim:
        raise RuntimeError("shapes do not fit")
    return answers(x, t, conditioning)


def wrong_for_vectors(x, t, conditioning):
    return answers(x, t.mean(), conditioning)


def mixes_rows(x, t, conditioning):
    """Whatever is in a batch influences all of it."""
    return {name: value + value.mean() + t for name, value in x.items()}


@pytest.mark.parametrize("mode", ["vector", "grouped", "single"])
def test_rows_come_back_in_order(mode):
    expected = answers(X, T, CONDITIONING)
    found = in_rows(answers, X, T, CONDITIONING, mode)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in X)


@pytest.mark.parametrize(("mode", "sizes"), [("vector", [5]), ("grouped", [2, 1, 2]), ("single", [1] * 5)])
def test_calls_are_as_large_as_the_mode_allows(mode, sizes):
    seen = []

    def counted(x, t, conditioning):
        seen.append(len(x["x"]))
        return answers(x, t, conditioning)

    in_rows(counted, X, T, CONDITIONING, mode)
    assert sorted(seen) == sorted(sizes)


@pytest.mark.parametrize(
    ("step", "mode"),
    [(answers, "vector"), (scalar_only, "grouped"), (wrong_for_vectors, "grouped"), (mixes_rows, "single")],
)
def test_the_fastest_mode_that_agrees_is_found(step, mode):
    assert fastest_mode(step, X, T, CONDITIONING, tolerance=1e-6) == mode


@pytest.mark.parametrize(
    ("architecture", "guided", "mode"),
    [
        ("QwenImagePipeline", True, "vector"),
        ("StableDiffusion3Pipeline", True, "grouped"),  # guidance doubles the batch, not the timesteps
        ("StableDiffusion3Pipeline", False, "vector"),
        ("FluxPipeline", True, "vector"),
        ("SanaPipeline", True, "grouped"),
        ("SanaPipeline", False, "vector"),
    ],
)
def test_real_pipelines(architecture, guided, mode, cases):
    """Measured at the first call that needs it, once for each set of arguments, gate or no gate."""
    assembly = cases(architecture, guided).fresh()
    start, state = own_loop(assembly, still(assembly))
    key = ("batching", frozen(state.requests[0].call))
    assert key not in assembly.model.memo
    assembly.hooks.predict(
        model=assembly.model,
        x=start,
        t=torch.tensor([300.0, 300.0, 700.0]),
        conditioning=state.conditioning,
        call=state.requests[0].call,
    )
    assert assembly.model.memo[key] == mode
