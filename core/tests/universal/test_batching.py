"""Rows at different timesteps: the three ways of batching agree, and only a way that was measured is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_cases import own_loop, still

from omni_rl.universal.batch_probes import known_mode
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


def one_timestep_for_all(x, t, conditioning):
    """Velocities that hardly depend on the timestep, and of a vector only on its first."""
    first = torch.as_tensor(t).flatten()[0]
    return {name: value * (1 + first / 1000) + conditioning["embeds"] for name, value in x.items()}


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


@pytest.mark.parametrize("tolerance", [1e-6, 5e-2])
def test_a_tolerance_does_not_hide_that_a_vector_of_timesteps_is_ignored(tolerance):
    assert fastest_mode(one_timestep_for_all, X, T, CONDITIONING, tolerance) == "grouped"


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
    call = state.requests[0].call
    assert known_mode(assembly.model, state.conditioning, call) is None
    _predict(assembly, start, state, [300.0, 300.0, 700.0])
    assert known_mode(assembly.model, state.conditioning, call) == mode


def _predict(assembly, start, state, t):
    rows = slice(0, len(t))
    conditioning = {n: v[rows] for n, v in state.conditioning.items()}
    x = {n: v[rows] for n, v in start.items()}
    with torch.no_grad():
        return assembly.hooks.predict(
            model=assembly.model,
            x=x,
            t=torch.tensor(t),
            conditioning=conditioning,
            call=state.requests[0].call,
            step=None,
        )["x"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pipeline_that_ignores_timesteps_of_rows_is_found_whatever_the_first_batch_is(precision, cases):
    """In bf16 the velocities at 500 and 480 are equal to the tolerance, so the first batch must not decide."""
    found = []
    for first in ([500.0, 500.0, 480.0], [990.0, 10.0]):
        assembly = cases("StableDiffusion3Pipeline", False).fresh(precision=precision)
        assembly.model.pipe.transformer.register_forward_pre_hook(_first_timestep_for_all, with_kwargs=True)
        start, state = own_loop(assembly, still(assembly))
        _predict(assembly, start, state, first)
        found.append(known_mode(assembly.model, state.conditioning, state.requests[0].call))
        together = _predict(assembly, start, state, [990.0, 990.0, 10.0])
        alone = _predict(assembly, {"x": start["x"][2:]}, _last_row(state), [10.0])
        torch.testing.assert_close(together[2:], alone, rtol=0, atol=2e-2 * float(alone.abs().max()))
    assert found == ["grouped", "grouped"]


def _first_timestep_for_all(_, args, kwargs):
    return args, {**kwargs, "timestep": kwargs["timestep"][:1].expand_as(kwargs["timestep"])}


def _last_row(state):
    return replace(state, conditioning={n: v[2:] for n, v in state.conditioning.items()})
