"""Arguments for the pipeline's ``__call__``: those that only omni-rl may set, and a check against its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omni_rl.config.problems import shown
from omni_rl.errors import ConfigError, did_you_mean

SECTIONS = ("rollout.call", "validation.call")

_RESERVED = (  # (pattern of the name, reason): arguments that only omni-rl may set
    (r"prompt", "prompts come from data.path"),
    (r"num_inference_steps", "set {steps}"),
    (r"num_(images|videos|waveforms|samples)_per_prompt", "set {samples}"),
    (r"(negative_)?(pooled_)?prompt_(embeds|attention_mask).*", "omni-rl encodes the prompts and keeps the embeddings"),
    (r"(audio_)?latents", "omni-rl draws the initial noise itself, from `seed`"),
    (r"generator", "every random draw follows from `seed`; no generator is used"),
    (
        r"sigmas|timesteps",
        "the pipeline's own scheduler computes the schedule from {steps}; for a few-step model, set {steps} and edit "
        "scheduler_config.json",
    ),
    (r"output_type|return_dict", "omni-rl decodes the samples itself"),
    (r"callback.*", "omni-rl runs the denoising loop; a plugin's hooks are called at every step"),
)
_MOST = {"height": 16384, "width": 16384, "num_frames": 10_000}
"""The largest size of a sample."""

_ROLLOUT = {"steps": "rollout.steps", "samples": "rollout.group_size"}
_KEY_TO_SET = {
    "rollout.call": _ROLLOUT,
    "data.call": _ROLLOUT,
    "data.media": _ROLLOUT,
    "validation.call": {"steps": "validation.steps", "samples": "validation.samples_per_prompt"},
}


def forbidden(call: Mapping[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """Yield (name, reason) for every argument in ``call`` that a configuration must not set.

    Args:
        section: one of ``SECTIONS``, ``data.call`` or ``data.media``.
    """
    for key in call:
        for pattern, reason in _RESERVED:
            if re.fullmatch(pattern, key):
                yield key, reason.format(**_KEY_TO_SET[section])


def check_call(
    call: Mapping[str, Any], pipeline: type, section: str = "rollout.call", place: Callable[[str], str] | None = None
) -> None:
    """Check that a pipeline accepts these arguments.

    Args:
        call: the configured arguments, including those that are null.
        pipeline: a diffusers pipeline class.
        section: the name of ``call`` in messages: one of ``SECTIONS``, ``data.call`` or ``data.media``.
        place: maps a dotted key to the place that set it (``Resolved.place``).

    Raises:
        ConfigError: only omni-rl may set an argument, or the pipeline does not have it; the message lists all such
            arguments. Or a value has the wrong type.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][1:]
    reserved = dict(forbidden(call, section))
    free = [name for name in known if not any(forbidden({name: None}, section))]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wrong = [f"{section}.{key} cannot be set: {reason}" for key, reason in reserved.items()]
    wrong += [
        f"{_at(place, section, key)}{pipeline.__name__} has no argument '{key}'.{did_you_mean(key, free)}"
        for key in call
        if key not in reserved and key not in known and not takes_any
    ]
    if wrong:
        raise ConfigError("\n  ".join(wrong), f"{section} takes: {', '.join(free)}")
    for key, value in call.items():
        kind = None if value is None else _mismatch(key, value, parameters.get(key))
        if kind:
            what = f"{_at(place, section, key)}{key} takes {kind}, not {shown(value)}"
            raise ConfigError(what, "null uses the pipeline's own default")


def _mismatch(key: str, value: Any, parameter: inspect.Parameter | None) -> str | None:
    """What an argument takes, if ``value`` is no such thing. Most pipelines do not check this themselves."""
    if key in _MOST:
        if type(value) is not int or value <= 0:
            return "a positive whole number"
        return None if value <= _MOST[key] else f"a number of at most {_MOST[key]}"
    if key == "negative_prompt":
        return None if isinstance(value, str) else "text"
    if isinstance(value, float) and not abs(value) <= 1e38:  # also NaN
        return "a finite number that fp32 can hold"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a number of at most 63 bits"
    number = parameter is not None and type(parameter.default) in (int, float)
    fits = isinstance(value, (int, float)) or (isinstance(value, list) and _takes_many(parameter))
    return "a number" if number and not fits else None


def _takes_many(parameter: inspect.Parameter | None) -> bool:
    """Whether the annotation has room for a list besides the number."""
    return parameter is not None and re.search("list|tuple|sequence", str(parameter.annotation), re.I) is not None


def _at(place: Callable[[str], str] | None, section: str, key: str) -> str:
    return f"{place(f'{section}.{key}')}: " if place else f"{section}: "
