"""Arguments for the pipeline's ``__call__``: which ones are omni-rl's own, and whether the pipeline knows the rest."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omni_rl.errors import ConfigError, did_you_mean

SECTIONS = ("rollout.call", "validation.call")

_OWN = (
    (r"prompt", "prompts come from data.path"),
    (r"num_inference_steps", "set {steps}"),
    (r"num_(images|videos|waveforms|samples)_per_prompt", "set {samples}"),
    (r"(negative_)?(pooled_)?prompt_(embeds|attention_mask).*", "omni-rl encodes the prompts and keeps the embeddings"),
    (r"(audio_)?latents", "omni-rl draws the initial noise itself, from `seed`"),
    (r"generator", "every random draw follows from `seed`; no generator is used"),
    (r"sigmas|timesteps", "the schedule is what the pipeline's own scheduler makes of {steps}"),
    (r"output_type|return_dict", "omni-rl decodes the samples itself"),
    (r"callback.*", "omni-rl owns the denoising loop; a plugin's hooks see every step"),
)
_ROLLOUT = {"steps": "rollout.steps", "samples": "rollout.group_size"}
_MEANT = {
    "rollout.call": _ROLLOUT,
    "data.call": _ROLLOUT,
    "data.media": _ROLLOUT,
    "validation.call": {"steps": "validation.steps", "samples": "validation.samples_per_prompt"},
}


def forbidden(call: Mapping[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """The arguments in ``call`` that are not the configuration's to give, each with the reason.

    Args:
        section: one of ``SECTIONS``, ``data.call`` or ``data.media``.
    """
    for key in call:
        for pattern, reason in _OWN:
            if re.fullmatch(pattern, key):
                yield key, reason.format(**_MEANT[section])


def check_call(
    call: Mapping[str, Any],
    pipeline: type,
    section: str = "rollout.call",
    place: Callable[[str], str] | None = None,
) -> None:
    """Check that a pipeline takes these arguments.

    Args:
        call: arguments as configured, null ones included.
        pipeline: a diffusers pipeline class.
        section: how messages call ``call``: one of ``SECTIONS``, ``data.call`` or ``data.media``.
        place: dotted key to where it was set (``Resolved.place``).

    Raises:
        ConfigError: an argument that is omni-rl's own, or that the pipeline does not have; lists all of them. Or a
            size that is no positive whole number, which few pipelines notice themselves.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][1:]
    own = dict(forbidden(call, section))
    free = [name for name in known if not any(forbidden({name: None}, section))]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wrong = [f"{section}.{key} cannot be set: {reason}" for key, reason in own.items()]
    wrong += [
        f"{_at(place, section, key)}{pipeline.__name__} has no argument '{key}'.{did_you_mean(key, free)}"
        for key in call
        if key not in own and key not in known and not takes_any
    ]
    if wrong:
        raise ConfigError("\n  ".join(wrong), f"{section} takes: {', '.join(free)}")
    for key in ("height", "width", "num_frames"):
        value = call.get(key)
        if value is not None and not (type(value) is int and value > 0):
            what = f"{_at(place, section, key)}{key} takes a positive whole number, not {value!r}"
            raise ConfigError(what, "null leaves it to the pipeline")


def _at(place: Callable[[str], str] | None, section: str, key: str) -> str:
    return f"{place(f'{section}.{key}')}: " if place else f"{section}: "
