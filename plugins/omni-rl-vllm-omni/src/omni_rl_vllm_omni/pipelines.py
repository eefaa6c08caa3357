"""Rollout pipelines by name, for upstream, which wants a dotted one: ``omni_rl_vllm_omni.pipelines.<Architecture>``."""

from __future__ import annotations

from functools import lru_cache


@lru_cache
def _composed(architecture: str) -> type:
    from omni_rl_vllm_omni.rollout import pipeline_class

    return pipeline_class(architecture)


def __getattr__(name: str) -> type:
    if name.startswith("_"):
        raise AttributeError(name)
    return _composed(name)
