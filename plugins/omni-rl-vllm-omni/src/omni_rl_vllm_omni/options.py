"""Options in the section ``rollout`` with ``engine: vllm-omni``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class VllmOmniConfig(BaseModel):
    """The engine's options; all other arguments of vLLM-Omni go into ``engine_args``."""

    model_config = ConfigDict(extra="forbid")

    step_execution: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="continuous batching: 'auto' if the pipeline supports it, 'required' or an error, 'off' never",
    )
    max_num_seqs: PositiveInt = Field(default=8, description="samples computed at the same time")
    max_wait_ms: float = Field(
        default=100.0, ge=0, description="milliseconds that a batch of whole requests waits for more requests"
    )
    lora: Literal["merged", "adapter"] = Field(
        default="merged",
        description="a sync sends merged weights ('merged'), or LoRA for the engine's own LoRA layers ('adapter')",
    )
    timeout_s: PositiveFloat = Field(
        default=600.0, description="seconds per sample; a sample that takes longer is requested again"
    )
    sleep: bool = Field(default=False, description="free the engine's GPU memory for the trainer between rollouts")
    sync_mib: PositiveFloat = Field(default=256.0, description="maximum size in MiB of one message of weights")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm_omni.AsyncOmni")
