"""ImageReward (arXiv 2304.05977): BLIP encodes the prompt with attention to the image, and a head rates the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertTokenizer, BlipConfig, BlipPreTrainedModel, BlipTextModel, BlipVisionModel

from omni_rl_preference_rewards.frames import Pixels
from omni_rl_preference_rewards.loading import load_model
from omni_rl_preference_rewards.options import LongPrompts
from omni_rl_preference_rewards.pixels import cropped_to
from omni_rl_preference_rewards.rating import RatingHead
from omni_rl_preference_rewards.tokens import tokenize

TOKENS = 35
"""The number of tokens that ImageReward reads, including the opening and closing token."""

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's ratings on the authors' data; ``ImageReward.score`` standardises with them."""


class ImageRewardModel(BlipPreTrainedModel):
    """``ImageReward`` of the package image-reward, on transformers' BLIP.

    (That package itself pins releases of timm and fairscale, and imports names that transformers 5 no longer has.)
    """

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.head = RatingHead(config.text_config.hidden_size)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Standardised ratings (N,) of images (N, 3, S, S) for prompts (N, L): ``ImageReward.score_gard``."""
        seen = self.vision_model(pixel_values).last_hidden_state  # (N, patches + 1, width)
        read = self.text_encoder(input_ids, attention_mask=attention_mask, encoder_hidden_states=seen)
        rating: torch.Tensor = self.head(read.last_hidden_state[:, 0])
        return (rating - MEAN) / STD


class Blip:
    """An ImageReward model on a device, with its tokenizer.

    Args:
        folder: as ``omni-rl-convert-reward image_reward`` writes it.
        device: where it computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._model = load_model(ImageRewardModel, folder, device)
        self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        self._prepare = cropped_to(self._model.config.vision_config.image_size)
        self._device = device

    @torch.no_grad()
    def ratings(
        self, images: Sequence[Pixels], texts: Sequence[str], long_prompts: LongPrompts, at_once: int
    ) -> torch.Tensor:
        """One rating (N,) fp32 on the CPU for each image and its text, ``at_once`` of them in a forward.

        Raises:
            DataError: as :func:`~omni_rl_preference_rewards.tokens.tokenize`.
        """
        tokens = tokenize(self._tokenizer, texts, TOKENS, long_prompts)
        parts = []
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            read = {name: ids[part].to(self._device) for name, ids in tokens.items()}
            parts.append(self._model(self._prepare(images[part]).to(self._device), **read).cpu())
        return torch.cat(parts)
