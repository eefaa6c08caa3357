"""Options beside ``rollout.engine: vllm-omni``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class VllmOmniConfig(BaseModel):
    """The engine's own options; whatever else upstream takes goes into ``engine_args``."""

    model_config = ConfigDict(extra="forbid")

    step_execution: Literal["auto", "required", "off"] = Field(
        default="auto", description="continuous batching, one denoising step at a time: if possible, always, or never"
    )
    max_num_seqs: PositiveInt = Field(default=8, description="samples under way together")
    max_wait_ms: float = Field(default=100.0, ge=0, description="how long a batch of whole requests waits to fill up")
    lora: Literal["merged", "adapter"] = Field(
        default="merged", description="a sync sends merged weights, or adapters for the engine's own LoRA layers"
    )
    timeout_s: PositiveFloat = Field(default=600.0, description="a sample that takes longer is asked for again")
    sleep: bool = Field(
        default=False, description="lend the accelerator's memory to the trainer while nothing is sampled"
    )
    sync_mib: PositiveFloat = Field(default=256.0, description="most weights in one message")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm_omni.AsyncOmni")
