"""Options of the rewards. All take weights from a local path; none downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

LongPrompts = Literal["error", "truncate"]


class ImageOptions(BaseModel):
    """Options of every reward of this package."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device of the scoring model: auto (the first CUDA device if there is one), cpu, cuda or cuda:N",
    )
    frames: PositiveInt | None = Field(
        8, description="a video's score is the mean over this number of evenly spaced frames; null: over all frames"
    )


class PromptOptions(ImageOptions):
    """Options of the rewards that read the prompt."""

    long_prompts: LongPrompts = Field(
        "error", description="for a prompt with more tokens than the model reads: 'error', or 'truncate' it"
    )


class ClipScoreOptions(PromptOptions):
    """Options of ``clip_score``."""

    path: Path = Field(
        description="folder of a CLIP model in transformers' layout, such as openai/clip-vit-large-patch14",
        examples=["./clip-vit-large-patch14"],
    )
    scale: Literal["clip_s", "percent", "cosine"] = Field(
        "clip_s", description="clip_s: 2.5 max(cos, 0), as published; percent: 100 max(cos, 0); cosine: cos"
    )
    prefix: str = Field("A photo depicts ", description="text before every prompt; default: as published")


class PickScoreOptions(PromptOptions):
    """Options of ``pickscore``."""

    path: Path = Field(
        description="folder of yuvalkirstain/PickScore_v1 in transformers' layout", examples=["./PickScore_v1"]
    )
    processor: Path | None = Field(
        None, description="folder with the tokenizer and preprocessor_config.json; null: they are in `path`"
    )
    scale: Literal["raw", "unit"] = Field(
        "raw", description="raw: exp(logit_scale) cos, as published (about 20); unit: raw / 26, as in flow_grpo"
    )


class HPSv2Options(PromptOptions):
    """Options of ``hps_v2``."""

    path: Path = Field(
        description="output folder of omni-rl-convert-reward for a checkpoint of xswu/HPSv2, v2.0 or v2.1",
        examples=["./hps-v2.1"],
    )
    scale: Literal["cosine", "percent"] = Field(
        "cosine", description="cosine: as hpsv2.score (about 0.3); percent: 100 times that, as in its tables"
    )


class AestheticOptions(ImageOptions):
    """Options of ``aesthetic``."""

    path: Path = Field(
        description="folder of the CLIP model that the head was trained on, openai/clip-vit-large-patch14",
        examples=["./clip-vit-large-patch14"],
    )
    head: Path = Field(
        description="safetensors file of the predictor, written by omni-rl-convert-reward",
        examples=["./aesthetic.safetensors"],
    )


class ImageRewardOptions(PromptOptions):
    """Options of ``image_reward``."""

    path: Path = Field(
        description="output folder of omni-rl-convert-reward for ImageReward.pt of THUDM/ImageReward",
        examples=["./image-reward"],
    )
