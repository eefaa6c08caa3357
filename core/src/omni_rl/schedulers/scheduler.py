"""A diffusers scheduler with SDE steps: replaces FlowMatchEulerDiscreteScheduler, and also computes log-probs.

Follows Flow-GRPO (arXiv 2505.05470). The formulas are in :mod:`omni_rl.schedulers.transition`.
"""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)
from diffusers.utils.torch_utils import randn_tensor

from omni_rl.errors import ModelError, UserError
from omni_rl.schedulers.transition import joint_log_prob, transition
from omni_rl.schedulers.types import LogProbType, SdeType


@dataclass
class FlowMatchSDEDiscreteSchedulerOutput(FlowMatchEulerDiscreteSchedulerOutput):
    """The return value of :meth:`FlowMatchSDEDiscreteScheduler.step`; all tensors but ``prev_sample`` are fp32.

    Attributes:
        prev_sample: (B, ...) next latents x', in the dtype of the model output, as diffusers' schedulers return them.
        log_prob: (B,) log-prob per element of x' before it was rounded to that dtype; None with
            ``return_logprobs=False``.
        prev_sample_mean: (B, ...) mean of x' given x.
        std_dev_t: (B, 1, ..., 1); for ``sde`` the std of x' divided by sqrt(-dt), for ``cps`` and ``dance_sde`` the
            std of x'.
    """

    log_prob: torch.Tensor | None
    prev_sample_mean: torch.Tensor
    std_dev_t: torch.Tensor


class FlowMatchSDEDiscreteScheduler(FlowMatchEulerDiscreteScheduler):
    """SDE version of FlowMatchEulerDiscreteScheduler, with the same constructor, tables and step counting.

    It computes in fp32 for any dtype of the model output. :meth:`step` returns the next latents in the dtype of the
    model output, so that it works in a bf16 pipeline; for latents to keep, use :meth:`sample_previous_step`, which
    returns fp32: log-probs of rounded latents are wrong.

    Raises:
        ModelError: ``invert_sigmas`` (reversed time) or ``stochastic_sampling`` (another kind of noise) is set.
    """

    timesteps: torch.Tensor  # (steps,) fp32
    sigmas: torch.Tensor  # (steps + 1,) fp32
    _step_index: int | None

    @functools.wraps(FlowMatchEulerDiscreteScheduler.__init__)  # type: ignore[misc]  # diffusers reads the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key in ("invert_sigmas", "stochastic_sampling"):
            if self.config[key]:
                raise ModelError(f"the SDE scheduler does not support the scheduler setting {key}: true")

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Refuse settings that ``from_config`` and ``from_pretrained`` would silently drop, which changes the table.

        Raises:
            ModelError: this class does not know a key, or the model does not predict a velocity.
        """
        settings = {**config_dict, **kwargs}
        prediction = settings.get("prediction_type", "flow_prediction")
        if prediction != "flow_prediction":
            raise ModelError(f"prediction_type {prediction!r} is not flow matching: the model must predict a velocity")
        known = {*inspect.signature(cls).parameters, "prediction_type"}
        unknown = sorted(key for key in settings if key not in known and not key.startswith("_"))
        if unknown:
            raise ModelError(
                f"{cls.__name__} does not know these settings of {settings.get('_class_name', 'the config')}, "
                f"without which its sigma table would differ: {', '.join(unknown)}",
                f"build {cls.__name__}() and copy the other scheduler's table with set_table(timesteps, sigmas)",
            )
        return super().extract_init_dict(config_dict, **kwargs)  # type: ignore[no-any-return]

    def set_table(self, timesteps: torch.Tensor, sigmas: torch.Tensor) -> None:
        """Use exactly this table, without shift or recomputation, and start at its first step.

        Args:
            timesteps: (steps,) distinct values, the denoiser's input; stored as fp32.
            sigmas: (steps + 1,) strictly decreasing within [0, 1]; stored as fp32.

        Raises:
            ModelError: the tensors do not have these properties.
        """
        timesteps, sigmas = (tensor.detach().to(torch.float32, copy=True) for tensor in (timesteps, sigmas))
        steps = timesteps.unique().numel()
        if timesteps.shape != (steps,) or sigmas.shape != (steps + 1,):
            raise ModelError(
                f"a table needs (steps,) distinct timesteps and (steps + 1,) sigmas: {timesteps}, {sigmas}"
            )
        if not (sigmas.diff() < 0).all() or sigmas[0] > 1 + 1e-6 or sigmas[-1] < 0:
            raise ModelError(f"sigmas must decrease strictly from at most 1 to at least 0, but they are {sigmas}")
        self.timesteps, self.sigmas, self.num_inference_steps = timesteps, sigmas, steps
        self._step_index = self._begin_index = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: torch.Tensor | None = None,
        return_dict: bool = True,
        noise_level: float = 0.7,
        prev_sample: torch.Tensor | None = None,
        sde_type: SdeType = "sde",
        return_logprobs: bool = True,
        log_prob_type: LogProbType = "density",
    ) -> FlowMatchSDEDiscreteSchedulerOutput | tuple[torch.Tensor | None, ...]:
        """Take the next step of the table and advance, as FlowMatchEulerDiscreteScheduler does.

        Args:
            timestep: one value of ``timesteps`` for all rows; selects the first step unless set_begin_index did.
            s_churn, s_tmin, s_tmax, s_noise: part of the parent's signature; only the defaults are accepted.
            return_dict: True: return the output class; False: return the tuple of its fields.

        ``prev_sample`` has the dtype of ``model_output``. The other arguments and the errors are those of
        :meth:`sample_previous_step`.
        """
        if (s_churn, s_tmin, s_tmax, s_noise) != (0.0, 0.0, math.inf, 1.0):
            raise UserError("s_churn, s_tmin, s_tmax and s_noise are not supported", "use noise_level and sde_type")
        if isinstance(timestep, torch.Tensor) and timestep.ndim:
            if (timestep != timestep[0]).any():
                raise UserError("step() needs one timestep for all rows", "for several, use sample_previous_step()")
            timestep = timestep[0]
        if self.step_index is None:
            self._step_index = int(self._indices(timestep)) if self.begin_index is None else self.begin_index
        fields = self.sample_previous_step(
            sample,
            model_output,
            generator=generator,
            per_token_timesteps=per_token_timesteps,
            noise_level=noise_level,
            prev_sample=prev_sample,
            sde_type=sde_type,
            return_logprobs=return_logprobs,
            log_prob_type=log_prob_type,
        )
        self._step_index = self.step_index + 1
        fields = (fields[0].to(model_output.dtype), *fields[1:])
        return FlowMatchSDEDiscreteSchedulerOutput(*fields) if return_dict else fields

    def sample_previous_step(
        self,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        per_token_timesteps: torch.Tensor | None = None,
        noise_level: float = 0.7,
        prev_sample: torch.Tensor | None = None,
        sde_type: SdeType = "sde",
        return_logprobs: bool = True,
        return_sqrt_dt: bool = False,
        log_prob_type: LogProbType = "density",
    ) -> tuple[Any, ...]:
        """Sample one step, or score a stored one, without advancing.

        Args:
            sample: (B, ...) latents x, any float dtype.
            model_output: (B, ...) velocity dx/dsigma, any float dtype.
            timestep: value of ``timesteps``, a number, 0-d or (B,) with a value per row; None: the next step's.
            generator: for the noise; not touched when ``prev_sample`` is given or ``noise_level`` is 0.
            per_token_timesteps: not supported.
            noise_level: eta, dimensionless; 0 gives exactly the Euler step.
            prev_sample: (B, ...) fp32 stored next latents to score in place of a new draw.
            sde_type: ``sde``, ``cps`` or ``dance_sde``.
            return_logprobs: whether to score the step.
            return_sqrt_dt: whether to append sqrt(-dt), (B,).
            log_prob_type: ``density``, the Gaussian log density per element, for every type; or ``squared_error``,
                -(x' - mean)^2 per element, the peers' convention for ``cps``.

        Returns:
            ``(prev_sample, log_prob, prev_sample_mean, std_dev_t[, sqrt_dt])`` as in
            :class:`FlowMatchSDEDiscreteSchedulerOutput`; the gradient of ``log_prob`` flows through the mean alone.

        Raises:
            UserError: an argument is unsupported or out of range, ``timestep`` is not in the table, or ``prev_sample``
                is not fp32.
        """
        if per_token_timesteps is not None:
            raise UserError("per_token_timesteps is not supported", "one timestep per row: timestep of shape (B,)")
        if log_prob_type not in get_args(LogProbType):
            raise UserError(f"unknown log_prob_type {log_prob_type!r}", f"one of: {', '.join(get_args(LogProbType))}")
        if prev_sample is not None and prev_sample.dtype != torch.float32:
            raise UserError(f"prev_sample is {prev_sample.dtype}", "a trajectory must be stored in fp32")
        index = self._indices(timestep).to(self.sigmas.device)
        x, velocity = sample.float(), model_output.float()
        step = transition(
            x, velocity, self.sigmas[index], self.sigmas[index + 1], noise_level, sde_type, first=index == 0
        )
        if prev_sample is None:
            prev_sample = step.mean
            if noise_level != 0:
                prev_sample = step.sample(randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype))
        log_prob = None
        if return_logprobs:
            log_prob = joint_log_prob({"x": step}, {"x": prev_sample.detach()}, {}, log_prob_type)
        fields = (prev_sample, log_prob, step.mean, step.std_dev_t)
        return (*fields, step.sqrt_dt) if return_sqrt_dt else fields

    def _indices(self, timestep: float | torch.Tensor | None) -> torch.Tensor:
        """Positions in the table: () or (B,) int64."""
        if timestep is None:
            if self.step_index is None or self.step_index >= len(self.timesteps):
                problem = f"there is no next step: the table's {len(self.timesteps)} steps are not started or all taken"
                raise UserError(problem, "pass timestep, or call set_timesteps() or set_table() and then step()")
            return torch.tensor(self.step_index)
        wanted = torch.as_tensor(timestep, device=self.timesteps.device)
        matches = self.timesteps == wanted.to(torch.float32)[..., None]  # (T,) or (B, T)
        if not matches.any(-1).all():
            raise UserError(f"timestep {wanted.tolist()} is not in the table", "pass values of scheduler.timesteps")
        return matches.int().argmax(-1)
