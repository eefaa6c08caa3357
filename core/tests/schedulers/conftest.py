"""An independent reference for the SDE steps, written from the formulas the peers publish, not from our code.

Everything is plain arithmetic on the arrays it is given: float64 numpy arrays for values, float64 torch tensors where a
test wants autograd's opinion. Scalars are Python floats, that is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

TYPES = ("sde", "cps", "dance_sde")


class Step(NamedTuple):
    mean: Any
    std: float
    std_dev_t: float


def reference_step(x, v, sigmas: Sequence[float], i: int, eta: float, sde_type: str) -> Step:
    """Step ``i`` of the table ``sigmas``: each type in its own paper's form, which is not the form of our code."""
    sigma, following = float(sigmas[i]), float(sigmas[i + 1])
    h = sigma - following
    data = x - sigma * v  # predicted x0
    noise = x + (1 - sigma) * v  # predicted x1
    if sde_type == "sde":  # Flow-GRPO: Euler-Maruyama of the reverse SDE
        g = eta * math.sqrt(sigma / (1 - (float(sigmas[1]) if sigma == 1 else sigma)))
        drift = v + g**2 / (2 * sigma) * noise
        return Step(x - drift * h, g * math.sqrt(h), g)
    if sde_type == "dance_sde":  # DanceGRPO: the ODE step plus a score term
        score = -(x - data * (1 - sigma)) / sigma**2
        std = eta * math.sqrt(h)
        return Step(x - v * h + 0.5 * eta**2 * score * h, std, std)
    std = following * math.sin(eta * math.pi / 2)  # Flow-CPS: recombine predicted data and noise
    return Step(data * (1 - following) + noise * math.sqrt(following**2 - std**2), std, std)


@pytest.fixture(scope="session")
def reference() -> Callable[..., Step]:
    return reference_step


@pytest.fixture(params=TYPES)
def sde_type(request: pytest.FixtureRequest) -> str:
    return request.param


def closed_form_sd3(steps: int, shift: float = 3.0) -> list[float]:
    """SD3's table: diffusers spaces timesteps evenly down to the *shifted* smallest sigma and shifts once more."""

    def shifted(t: float) -> float:
        return shift * t / (1 + (shift - 1) * t)

    last = shifted(1 / 1000)
    spaced = [1 - (1 - last) * i / max(steps - 1, 1) for i in range(steps)]
    return [*(shifted(t) for t in spaced), 0.0]


def closed_form_flux(steps: int, image_tokens: int) -> list[float]:
    """FLUX's table: even sigmas, shifted by an exponent that is linear in the number of image tokens."""
    mu = 0.5 + (1.15 - 0.5) * (image_tokens - 256) / (4096 - 256)
    even = [1 - i * (1 - 1 / steps) / max(steps - 1, 1) for i in range(steps)]
    return [*(1 / (1 + (1 / t - 1) * math.exp(-mu)) for t in even), 0.0]


@pytest.fixture(scope="session")
def sd3_sigmas() -> Callable[..., list[float]]:
    return closed_form_sd3


@pytest.fixture(scope="session")
def flux_sigmas() -> Callable[..., list[float]]:
    return closed_form_flux


FLUX = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
EVEN = [1 - i / 6 for i in range(6)]


@pytest.fixture(
    params=[
        ({"shift": 3.0}, {"num_inference_steps": 6}),
        (FLUX, {"sigmas": EVEN, "mu": 1.15}),
        ({**FLUX, "shift_terminal": 0.02}, {"sigmas": EVEN, "mu": 0.7}),
        ({"shift": 5.0, "use_karras_sigmas": True}, {"num_inference_steps": 6}),
    ],
    ids=["SD3", "FLUX", "terminal", "karras"],
)
def table(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """Constructor and ``set_timesteps`` arguments of a table that pipelines use."""
    return request.param
