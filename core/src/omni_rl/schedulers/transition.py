"""One denoising step as a Gaussian distribution, for every SDE type.

x' are the next latents, v is the velocity dx/dsigma (noise minus data), h = sigma - sigma' > 0, eta the noise level,
and x1 = x + (1 - sigma) v the predicted noise. Each type has the form

    x' = x - h v - pull * x1 + std * noise

This is the Euler step, minus a part of the predicted noise, plus new noise:

    type       std                            pull                        source
    sde        eta sqrt(sigma h / (1-sigma))  std^2 / (2 sigma)           Flow-GRPO, arXiv 2505.05470
    dance_sde  eta sqrt(h)                    std^2 / (2 sigma)           DanceGRPO, arXiv 2505.07818
    cps        sigma' sin(eta pi/2)           sigma' (1 - cos(eta pi/2))  Flow-CPS, arXiv 2509.05952

At eta = 0, std and pull are exactly 0, so the step is exactly the Euler step. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from omni_rl.errors import UserError, did_you_mean
from omni_rl.schedulers.types import LogProbType, SdeType

NEARLY_ONE = 0.9989
"""If the first sigma of a table is larger, ``sde`` uses 1 - sigma' in place of 1 - sigma in the first step."""

Masks = Mapping[str, torch.Tensor | None]
"""Per stream, as in :class:`Transition`; in a stream without an entry, all elements count."""

Sums = tuple[torch.Tensor, torch.Tensor]
"""(B,) sum over the unmasked elements, in float64 so that adding streams does not round; (B,) int64 their number."""


@dataclass(frozen=True, eq=False)
class Transition:
    """The distribution N(mean, std^2) of x' given x, for each row.

    Rows with std 0 (ODE steps; ``cps`` at sigma' = 0) are deterministic and have no density: the values and gradients
    of their log-prob and KL are exactly 0. ``mask`` arguments are bool, broadcastable to ``mean``, and True where an
    element counts; None means that all elements count. A row without any unmasked element has log-prob and KL 0.

    Attributes:
        mean: (B, ...) fp32, or float64 if the latents or the velocity are float64.
        std: (B, 1, ..., 1) same dtype; the true standard deviation of x' given x, for every SDE type.
        sqrt_dt: (B,) same dtype; sqrt(h).
        std_dev_t: (B, 1, ..., 1) same dtype; as other frameworks define it per type (``sde``: std / sqrt(h); others:
            std). Only for callers of the scheduler's public API.
        slope: (B, 1, ..., 1) same dtype; d mean / d velocity, which is negative.
    """

    mean: torch.Tensor
    std: torch.Tensor
    sqrt_dt: torch.Tensor
    std_dev_t: torch.Tensor
    slope: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """(B, ...) next latents for standard normal ``noise`` (B, ...)."""
        return self.mean + self.std * noise.to(self.mean)

    def log_prob_sum(self, next_x: torch.Tensor, mask: torch.Tensor | None = None) -> Sums:
        """Gaussian log density of ``next_x`` (B, ...), constants included, summed over unmasked elements."""
        squared, count = _squared_distance(next_x, self.mean, mask)
        std = self.std.flatten().to(squared.dtype)  # (B,)
        still = std == 0
        std = std.masked_fill(still, 1.0)  # a division by 0 would give a NaN gradient even if its result is masked
        density = -squared / (2 * std**2) - count * (std.log() + 0.5 * math.log(2 * math.pi))
        return density.masked_fill(still, 0.0), count

    def squared_error_sum(self, next_x: torch.Tensor, mask: torch.Tensor | None = None) -> Sums:
        """Sum of -(next_x - mean)^2, without variance and constants: other frameworks' log-prob of ``cps``."""
        squared, count = _squared_distance(next_x, self.mean, mask)
        return -squared.masked_fill(self.std.flatten() == 0, 0.0), count

    def kl_sum(self, other: Transition, mask: torch.Tensor | None = None) -> Sums:
        """KL(self || other) in nats, summed over unmasked elements.

        A row is 0 if it is deterministic in both distributions. If it is deterministic in only one, the KL does not
        exist and the row is not finite.
        """
        squared, count = _squared_distance(other.mean, self.mean, mask)
        std, other_std = self.std.flatten().to(squared.dtype), other.std.flatten().to(squared.dtype)  # (B,)
        still = (std == 0) & (other_std == 0)
        std, other_std = std.masked_fill(still, 1.0), other_std.masked_fill(still, 1.0)
        ratio = std / other_std
        kl = squared / (2 * other_std**2) + count * ((ratio**2 - 1) / 2 - ratio.log())
        return kl.masked_fill(still, 0.0), count

    def log_prob(self, next_x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B,) log density of ``next_x`` (B, ...) per unmasked element, in the dtype of ``mean``."""
        return joint_log_prob({"x": self}, {"x": next_x}, {"x": mask}, "density")

    def kl(self, other: Transition, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B,) KL(self || other) in nats per unmasked element, in the dtype of ``mean``."""
        return joint_kl({"x": self}, {"x": other}, {"x": mask})


def transition(
    x: torch.Tensor,
    velocity: torch.Tensor,
    sigma: torch.Tensor,
    sigma_next: torch.Tensor,
    noise_level: float | torch.Tensor,
    sde_type: SdeType,
    first: bool | torch.Tensor | None = None,
) -> Transition:
    """The step from ``sigma`` to ``sigma_next``.

    Args:
        x: (B, ...) latents at ``sigma``, any float dtype; converted to fp32 (float64 stays float64).
        velocity: (B, ...) model output dx/dsigma, noise minus data, any float dtype; converted in the same way.
        sigma, sigma_next: (B,) or 0-d, 0 <= sigma_next < sigma <= 1. Together with ``first`` these values are
            enough to replay a stored step exactly.
        noise_level: eta >= 0, a number or (B,); at most 1 for ``cps``. Rows with 0 are exactly the Euler step. A
            number is checked; a tensor is not, because the check would wait for its device.
        sde_type: ``sde``, ``cps`` or ``dance_sde``.
        first: whether it is the first step of its table, bool or (B,); only ``sde`` depends on it. None: it is the
            first step if sigma is 1.

    Raises:
        UserError: unknown ``sde_type`` or a noise level out of range.
    """
    _check(noise_level, sde_type)
    dtype = torch.promote_types(torch.promote_types(x.dtype, velocity.dtype), torch.float32)
    x, velocity = x.to(dtype), velocity.to(dtype)  # (B, ...)
    # Coefficients are computed in float64: there are only B of them, and fp32 sin() may differ in the last bit
    # between batch sizes, so that replay would not be exact.
    sigma, sigma_next, eta = (_per_row(value, x) for value in (sigma, sigma_next, noise_level))  # (B, 1, ..., 1)
    h = sigma - sigma_next
    if sde_type == "cps":
        public = std = sigma_next * torch.sin(eta * (math.pi / 2))
        pull = sigma_next * 2 * torch.sin(eta * (math.pi / 4)) ** 2  # 1 - cos(a) without cancellation
    else:
        starts = sigma > 1 - 1e-6 if first is None else _per_row(first, x) > 0
        g = eta * (_diffusion(sigma, sigma_next, starts) if sde_type == "sde" else 1.0)
        std = g * h.sqrt()
        public = g if sde_type == "sde" else std
        pull = std**2 / (2 * sigma)
    x1 = x + (1 - sigma).to(dtype) * velocity  # predicted noise
    mean = x - h.to(dtype) * velocity - pull.to(dtype) * x1
    slope = -(h + pull * (1 - sigma))
    return Transition(mean, std.to(dtype), h.sqrt().flatten().to(dtype), public.to(dtype), slope.to(dtype))


def has_density(sigma_next: torch.Tensor, noise_level: float, sde_type: SdeType) -> torch.Tensor:
    """Whether steps to ``sigma_next`` (any shape) have noise: bool, same shape. Steps without noise have no density."""
    return sigma_next > 0 if sde_type == "cps" and noise_level > 0 else torch.full_like(sigma_next > 0, noise_level > 0)


def joint_log_prob(
    transitions: Mapping[str, Transition], next_x: Mapping[str, torch.Tensor], masks: Masks, kind: LogProbType
) -> torch.Tensor:
    """(B,) log-prob of all streams together: their sums added, divided by their number of unmasked elements."""
    score = {"density": Transition.log_prob_sum, "squared_error": Transition.squared_error_sum}[kind]
    return _per_element([score(t, next_x[name], masks.get(name)) for name, t in transitions.items()], transitions)


def joint_kl(transitions: Mapping[str, Transition], others: Mapping[str, Transition], masks: Masks) -> torch.Tensor:
    """(B,) KL(transitions || others) in nats over all streams together, per unmasked element."""
    return _per_element([t.kl_sum(others[name], masks.get(name)) for name, t in transitions.items()], transitions)


def joint_mean(values: Mapping[str, torch.Tensor], masks: Masks) -> torch.Tensor:
    """(B,) mean of ``values`` (B, ...) over the unmasked elements of all streams together, in their dtype."""
    sums = [_masked_sum(value, masks.get(name)) for name, value in values.items()]
    total, count = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))  # (B,)
    return (total / count.clamp(min=1)).to(next(iter(values.values())).dtype)


def _check(noise_level: float | torch.Tensor, sde_type: str) -> None:
    known = get_args(SdeType)
    if sde_type not in known:
        raise UserError(f"unknown sde_type {sde_type!r}.{did_you_mean(sde_type, known)}", f"one of: {', '.join(known)}")
    limit = 1.0 if sde_type == "cps" else math.inf
    if not isinstance(noise_level, torch.Tensor) and not 0 <= noise_level <= limit:
        raise UserError(f"noise_level {noise_level} is out of range for {sde_type!r}: it must lie in [0, {limit}]")


def _diffusion(sigma: torch.Tensor, sigma_next: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    # At sigma == 1 this diverges. Other frameworks then use the table's second sigma in 1 - sigma, which is sigma_next
    # of the first step. Flow tables of diffusers' UniPC and DPM-Solver start at 1 - 1e-6 and 1 - 1e-3/shift; the same
    # rule applies. At a high shift, later sigmas are as large, but there nothing diverges.
    return (sigma / (1 - torch.where(first & (sigma > NEARLY_ONE), sigma_next, sigma))).sqrt()


def _squared_distance(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None) -> Sums:
    if a.shape != b.shape or a.dtype != b.dtype:
        problem = f"{a.dtype} latents {tuple(a.shape)} do not fit a {b.dtype} transition {tuple(b.shape)}"
        raise UserError(problem, "a trajectory must be stored in fp32")
    difference = a - b  # (B, ...)
    if mask is not None:  # before the square, so that masked NaN reaches neither values nor gradients
        difference = difference.masked_fill(~_expanded(mask, b), 0.0)
    return _masked_sum(difference**2, mask)


def _masked_sum(values: torch.Tensor, mask: torch.Tensor | None) -> Sums:
    if mask is None:
        count = torch.full((len(values),), math.prod(values.shape[1:]), device=values.device)
    else:
        mask = _expanded(mask, values)
        values, count = values.masked_fill(~mask, 0.0), mask.reshape(len(values), -1).sum(1)
    return values.reshape(len(values), -1).sum(1, dtype=_wide(values)), count


def _expanded(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return mask.to(values.device, torch.bool).expand_as(values)


def _per_element(sums: Sequence[Sums], transitions: Mapping[str, Transition]) -> torch.Tensor:
    total = torch.stack([total for total, _ in sums]).sum(0)  # (B,)
    count = torch.stack([count for _, count in sums]).sum(0)
    return (total / count.clamp(min=1)).to(next(iter(transitions.values())).mean.dtype)


def _per_row(value: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    rows = torch.as_tensor(value, dtype=_wide(x), device=x.device)
    return rows.expand(len(x)).view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's devices have no float64
