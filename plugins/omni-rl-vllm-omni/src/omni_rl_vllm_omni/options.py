"""Options beside ``rollout.engine: vllm-omni``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class VllmOmniConfig(BaseModel):
    """The engine's own options; whatever else upstream takes goes into ``engine_args``."""

    model_config = ConfigDict(extra="forbid")

    step_execution: bool = Field(True, description="continuous batching, one denoising step at a time, where it can")
    max_num_seqs: PositiveInt = Field(8, description="samples under way together")
    max_wait_ms: float = Field(20.0, ge=0, description="without step_execution: how long a batch waits to fill up")
    sync_mib: PositiveFloat = Field(256.0, description="most weights in one message")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm_omni.AsyncOmni")
