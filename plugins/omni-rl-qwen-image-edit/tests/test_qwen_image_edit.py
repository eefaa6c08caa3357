from __future__ import annotations

import pytest
import torch

import omni_rl_qwen_image_edit as edit
from omni_rl.errors import DataError
from omni_rl_testing.model import ModelContract
from omni_rl_testing.ranks import on_ranks

SIZE = {"height": 64, "width": 96}


class TestOnePicture(ModelContract):
    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return edit

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return {**SIZE, "true_cfg_scale": 4.0, "negative_prompt": "hello"}

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": picture(i, (32, 32))} for i in range(3)]

    def test_without_a_picture_there_is_nothing_to_edit(self, parts, probe):
        x = {"x": probe.batch["latents", "x", "final"][:1]}
        with pytest.raises(DataError, match=r"data\.media"):
            edit.predict(parts.model, x, torch.tensor([500.0]), {}, SIZE)


TestOnRanks = pytest.mark.full(on_ranks(TestOnePicture))


@pytest.mark.ci
class TestTwoPicturesWithoutGuidance(TestOnePicture):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return SIZE

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": [picture(2 * i, (32, 32)), picture(2 * i + 1, (48, 24))]} for i in range(3)]
