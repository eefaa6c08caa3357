"""The reward classes. They import model code and load weights at the first call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from omni_rl.contracts.reward import RewardBatch
from omni_rl_preference_rewards.folders import BERT_TOKENIZER, CLIP_TOKENIZER, Files
from omni_rl_preference_rewards.frames import Pixels, images_of, means
from omni_rl_preference_rewards.loading import shared
from omni_rl_preference_rewards.options import (
    AestheticOptions,
    ClipScoreOptions,
    HPSv2Options,
    ImageOptions,
    ImageRewardOptions,
    PickScoreOptions,
)
from omni_rl_preference_rewards.rating import RatingHead, head_width, load_head

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from omni_rl_preference_rewards.blip import Blip
    from omni_rl_preference_rewards.clip import Clip
    from omni_rl_preference_rewards.pixels import Prepare


class _ScoreOfImages(ABC):
    """Base class of the rewards: the score of a sample is the mean over its images.

    One forward pass has at most as many images as the call has samples, so ``batch_size`` limits both.
    """

    scope: ClassVar[Literal["sample", "group"]] = "sample"
    files: ClassVar[Files]

    def __init__(self, config: ImageOptions) -> None:
        from omni_rl.authoring.reward import pick_device

        self._device = pick_device(config.device)
        self._frames = config.frames

    def score(self, batch: RewardBatch) -> list[float]:
        """One score per sample of ``batch``; see the class for its unit.

        Raises:
            ModelError: the weights cannot be loaded (at the first call).
            DataError: a prompt is longer than the model reads.
            RewardError: a sample has no image.
        """
        if not len(batch):
            return []
        images, rows = images_of(batch, self._frames)
        scores = self._rate(images, [batch.prompts[row] for row in rows], len(batch))
        return means(scores.tolist(), rows)

    @abstractmethod
    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        """One score (N,) for each of N images and its prompt."""


class _ClipReward(_ScoreOfImages):
    """Base class of the rewards with CLIP; ``_processor`` is the folder of its tokenizer and preprocessor."""

    def __init__(self, config: ClipScoreOptions | PickScoreOptions | HPSv2Options | AestheticOptions) -> None:
        super().__init__(config)
        self._path = self._processor = config.path
        self.files.model(config.path, "clip")

    @cached_property
    def _clip(self) -> Clip:
        from omni_rl_preference_rewards.clip import Clip

        return shared(Clip, self._path, self._device)

    @cached_property
    def _prepare(self) -> Prepare:
        from omni_rl_preference_rewards.pixels import cropped_as

        return cropped_as(self._processor)


class _CosineReward(_ClipReward):
    """Cosine of the angle between the embeddings of an image and of its prompt."""

    def __init__(self, config: ClipScoreOptions | PickScoreOptions | HPSv2Options) -> None:
        super().__init__(config)
        self._long_prompts = config.long_prompts

    @cached_property
    def _tokenizer(self) -> CLIPTokenizer:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self._processor, local_files_only=True)

    def _cosines(self, images: Sequence[Pixels], texts: Sequence[str], at_once: int) -> torch.Tensor:
        """(N,) fp32."""
        read = self._clip.texts(texts, self._tokenizer, self._long_prompts, at_once)  # (N, D)
        seen = self._clip.images(images, self._prepare, at_once)  # (N, D)
        return (seen * read).sum(1)


class ClipScore(_CosineReward):
    """``clip_score``: 2.5 max(cos, 0) between image and "A photo depicts " + prompt.

    CLIP-S of arXiv 2104.08718, equation 1; ``get_clip_score`` of its code. Any CLIP will do; the paper's is
    ``openai/clip-vit-base-patch32``, RL papers mostly use ``openai/clip-vit-large-patch14``.
    """

    Config = ClipScoreOptions
    files = Files(
        "clip_score",
        (
            "hf download openai/clip-vit-large-patch14 config.json model.safetensors preprocessor_config.json "
            "tokenizer.json --local-dir clip-vit-large-patch14",
            "path: clip-vit-large-patch14",
        ),
    )

    def __init__(self, config: ClipScoreOptions) -> None:
        super().__init__(config)
        self._scale, self._prefix = config.scale, config.prefix
        self.files.processor(config.path)
        self.files.tokenizer(config.path, CLIP_TOKENIZER)

    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        cosines = self._cosines(images, [self._prefix + prompt for prompt in prompts], at_once)
        if self._scale == "cosine":
            return cosines
        return cosines.clamp(min=0) * {"clip_s": 2.5, "percent": 100.0}[self._scale]


class PickScore(_CosineReward):
    """``pickscore``: exp(logit_scale) cos, about 20 for PickScore_v1.

    arXiv 2305.01569, equation 1; ``calc_probs`` of its model card before the softmax.
    """

    Config = PickScoreOptions
    files = Files(
        "pickscore",
        (
            "hf download yuvalkirstain/PickScore_v1 --local-dir PickScore_v1",
            "path: PickScore_v1",
            "processor: where tokenizer.json and preprocessor_config.json are, should it lack them; those of "
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K are the same",
        ),
    )

    def __init__(self, config: PickScoreOptions) -> None:
        super().__init__(config)
        self._scale = config.scale
        self._processor = config.processor or config.path
        self.files.processor(self._processor)
        self.files.tokenizer(self._processor, CLIP_TOKENIZER)

    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        scores = self._cosines(images, prompts, at_once) * self._clip.temperature
        return scores if self._scale == "raw" else scores / 26


class HPSv2(_CosineReward):
    """``hps_v2``: cos, about 0.25 to 0.33; HPSv2 or HPSv2.1, depending on the converted checkpoint.

    arXiv 2306.09341; ``hpsv2.score``, which unlike the other two shrinks the whole image instead of cropping it.
    """

    Config = HPSv2Options
    files = Files(
        "hps_v2",
        (
            "hf download xswu/HPSv2 HPS_v2.1_compressed.pt --local-dir .",
            "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K config.json tokenizer.json --local-dir clip-h",
            "omni-rl-convert-reward hps_v2 HPS_v2.1_compressed.pt hps-v2.1 --base clip-h",
            "path: hps-v2.1",
        ),
    )

    def __init__(self, config: HPSv2Options) -> None:
        super().__init__(config)
        self._factor = {"cosine": 1.0, "percent": 100.0}[config.scale]
        self.files.tokenizer(config.path, CLIP_TOKENIZER)

    @cached_property
    def _prepare(self) -> Prepare:
        from omni_rl_preference_rewards.pixels import fitted_to

        return fitted_to(self._clip.size)

    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        return self._cosines(images, prompts, at_once) * self._factor


class Aesthetic(_ClipReward):
    """``aesthetic``: a rating of the image between about 1 and 10; it does not depend on the prompt.

    LAION's improved-aesthetic-predictor (``sac+logos+ava1-l14-linearMSE``) on unit embeddings of CLIP ViT-L/14.
    """

    Config = AestheticOptions
    files = Files(
        "aesthetic",
        (
            "hf download openai/clip-vit-large-patch14 config.json model.safetensors preprocessor_config.json "
            "--local-dir clip-vit-large-patch14",
            "omni-rl-convert-reward aesthetic sac+logos+ava1-l14-linearMSE.pth aesthetic.safetensors",
            "(that .pth is in the GitHub repository christophschuhmann/improved-aesthetic-predictor)",
            "path: clip-vit-large-patch14",
            "head: aesthetic.safetensors",
        ),
    )

    def __init__(self, config: AestheticOptions) -> None:
        super().__init__(config)
        self._head_file = config.head
        self.files.processor(config.path)
        self.files.file(config.head)
        self._check_width()

    def _check_width(self) -> None:
        embeds = json.loads((self._path / "config.json").read_text(encoding="utf-8")).get("projection_dim", 512)
        takes = head_width(self._head_file)
        if takes != embeds:
            what = f"the head {self._head_file} takes embeddings of width {takes}, and the CLIP in {self._path} has"
            raise self.files.error(f"{what} {embeds}")

    @cached_property
    def _head(self) -> RatingHead:
        return shared(load_head, self._head_file, self._device)

    @torch.no_grad()
    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        del prompts
        embeddings = self._clip.images(images, self._prepare, at_once)
        ratings: torch.Tensor = self._head(embeddings.to(self._device))
        return ratings.cpu()


class ImageReward(_ScoreOfImages):
    """``image_reward``: a standardised rating, about -2 to 2, of an image for its prompt. arXiv 2304.05977."""

    Config = ImageRewardOptions
    files = Files(
        "image_reward",
        (
            "hf download THUDM/ImageReward ImageReward.pt --local-dir .",
            "hf download google-bert/bert-base-uncased tokenizer.json tokenizer_config.json --local-dir bert",
            "omni-rl-convert-reward image_reward ImageReward.pt image-reward --base bert",
            "path: image-reward",
        ),
    )

    def __init__(self, config: ImageRewardOptions) -> None:
        super().__init__(config)
        self._path, self._long_prompts = config.path, config.long_prompts
        self.files.model(config.path, "blip")
        self.files.tokenizer(config.path, BERT_TOKENIZER)

    @cached_property
    def _blip(self) -> Blip:
        from omni_rl_preference_rewards.blip import Blip

        return shared(Blip, self._path, self._device)

    def _rate(self, images: Sequence[Pixels], prompts: Sequence[str], at_once: int) -> torch.Tensor:
        return self._blip.ratings(images, prompts, self._long_prompts, at_once)
