"""Rows of several encodings, put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from omni_rl.errors import ModelError
from omni_rl.model.encoding import encode_prompts, joined


def encoding(rows: int, width: int) -> dict[str, torch.Tensor]:
    """Two layers' embeddings of each token, pooled ones, and a mask."""
    return {
        "prompt_embeds": torch.ones(rows, 2, width, 4),
        "pooled_prompt_embeds": torch.ones(rows, 4),
        "prompt_embeds_mask": torch.ones(rows, width, dtype=torch.long),
    }


def test_encodings_of_different_width_are_padded_with_zeros_behind():
    found = joined([encoding(1, 3), encoding(2, 5)])
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "prompt_embeds": (3, 2, 5, 4),
        "pooled_prompt_embeds": (3, 4),
        "prompt_embeds_mask": (3, 5),
    }
    assert found["prompt_embeds_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1] * 5]
    counted = found["prompt_embeds_mask"][:, None, :, None].expand(3, 2, 5, 4)
    assert torch.equal(found["prompt_embeds"], counted.float())


def test_without_a_mask_nothing_is_padded():
    alone = [{"prompt_embeds": torch.ones(1, width, 4)} for width in (3, 5)]
    with pytest.raises(ModelError, match=r"prompt_embeds has widths \[3, 5\], and no mask says what is padding"):
        joined(alone)
    assert torch.equal(joined(alone[:1] * 2)["prompt_embeds"], torch.ones(2, 3, 4))


class BrokenHooks:
    def tokenize(self, **_: object) -> dict[str, torch.Tensor]:
        raise TypeError("'>' not supported between instances of 'int' and 'list'")


def test_what_a_tokenizer_raises_is_an_error_of_the_model():
    model: Any = SimpleNamespace(hooks=BrokenHooks(), architecture="QwenImagePipeline")
    with pytest.raises(ModelError, match="QwenImagePipeline cannot encode texts: TypeError: '>' not") as caught:
        encode_prompts(model, ["snow"], None, {})
    assert f"(at {__file__}:" in caught.value.what
