"""Embeddings of images and texts by a CLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from omni_rl_preference_rewards.frames import Pixels
from omni_rl_preference_rewards.loading import load_model
from omni_rl_preference_rewards.options import LongPrompts
from omni_rl_preference_rewards.pixels import Prepare
from omni_rl_preference_rewards.tokens import tokenize


class Clip:
    """A CLIP model on a device.

    Args:
        folder: transformers model folder; see :func:`~omni_rl_preference_rewards.loading.load_model` for its errors.
        device: where it computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._model = load_model(CLIPModel, folder, device)
        self._device = device

    @property
    def size(self) -> int:
        """Height and width of its input images, in pixels."""
        return int(self._model.config.vision_config.image_size)

    @property
    def temperature(self) -> float:
        """``exp(logit_scale)``, the factor of cosines in the model's own logits."""
        return float(self._model.logit_scale.exp())

    @torch.no_grad()
    def images(self, images: Sequence[Pixels], prepare: Prepare, at_once: int) -> torch.Tensor:
        """Unit embeddings (N, D) fp32 on the CPU, ``at_once`` images in a forward."""
        parts = [
            self._model.get_image_features(pixel_values=prepare(images[start : start + at_once]).to(self._device))
            for start in range(0, len(images), at_once)
        ]
        return torch.cat([F.normalize(part.pooler_output).cpu() for part in parts])

    @torch.no_grad()
    def texts(
        self, texts: Sequence[str], tokenizer: CLIPTokenizer, long_prompts: LongPrompts, at_once: int
    ) -> torch.Tensor:
        """Unit embeddings (N, D) fp32 on the CPU; a text that occurs several times is encoded once.

        Raises:
            DataError: as :func:`~omni_rl_preference_rewards.tokens.tokenize`.
        """
        different = list(dict.fromkeys(texts))
        limit = self._model.config.text_config.max_position_embeddings
        tokens = tokenize(tokenizer, different, limit, long_prompts)
        parts = [
            self._model.get_text_features(
                **{name: ids[start : start + at_once].to(self._device) for name, ids in tokens.items()}
            )
            for start in range(0, len(different), at_once)
        ]
        unit = torch.cat([F.normalize(part.pooler_output).cpu() for part in parts])
        return unit[[different.index(text) for text in texts]]
