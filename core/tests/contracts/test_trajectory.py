from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.errors import RunError
from omni_rl.schedulers.randomness import randn, seed_of
from omni_rl.schedulers.types import NoiseKey

CONDITIONING = {
    "prompt_embeds": torch.arange(24.0).view(2, 3, 4),
    "prompt_embeds_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    "negative_prompt_embeds": torch.ones(2, 1, 4),
    "negative_prompt_embeds_mask": torch.ones(2, 1, dtype=torch.long),
    "pooled_prompt_embeds": torch.arange(6.0).view(2, 3),
    "image_latents": torch.arange(8.0).view(2, 2, 2),
}
TOKENS = {"prompt_ids": torch.arange(10).view(2, 5), "prompt_ids_mask": torch.ones(2, 5, dtype=torch.long)}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("tokens", [TOKENS, {}], ids=["tokens", "text"])
def test_conditioning_comes_back_as_it_went_in(tokens):
    """What ``predict`` was given in rollout is what it is given in replay; token ids are for the record alone."""
    batch = TensorDict(trajectory.text_entries(CONDITIONING, tokens), batch_size=[2])
    assert equal(trajectory.conditioning_of(batch), CONDITIONING)
    assert all(torch.equal(batch[name], value) for name, value in tokens.items())


def test_prompt_tensors_have_their_documented_keys_and_others_are_conditions():
    entries = trajectory.text_entries(CONDITIONING, TOKENS)
    assert set(entries["condition"]) == {"pooled_prompt_embeds", "image_latents"}
    assert set(entries) - {"condition"} <= set(trajectory.PROMPT_KEYS)


def test_no_other_conditioning_leaves_no_empty_entry():
    assert "condition" not in trajectory.text_entries({"prompt_embeds": torch.zeros(1, 1, 1)}, {})


def sample(number: int, width: int) -> Sample:
    key = NoiseKey(0, "rollout", 0, 0, number)
    request = Request(uid=7, sample_id=number, prompt="a", key=key, initial_key=key, steps=4)
    values = {
        "latents": {"x": {"all": randn(seed_of(number), (3, 2, 2)), "final": torch.zeros(2, 2)}},
        "prompt_embeds": randn(seed_of("e", number), (width, 4)),
        "prompt_embeds_mask": torch.ones(width, dtype=torch.long),
        "prompt_ids": torch.full((width + 2,), 9),
        "media": {"image": torch.zeros(4, 4 + number, 3, dtype=torch.uint8)},
        **{name: value[0] for name, value in trajectory.identity([request]).items()},
    }
    return Sample(request, TensorDict(values))


def test_collate_pads_prompts_of_different_width_with_zeros():
    samples = [sample(number, width) for number, width in enumerate((2, 5, 3))]
    batch = trajectory.collate(samples)
    assert batch.batch_size == torch.Size([3])
    assert batch["prompt_embeds"].shape == (3, 5, 4)
    assert batch["prompt_embeds_mask"].tolist() == [[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]
    assert batch["prompt_ids"].shape == (3, 7)
    assert batch["sample_id"].tolist() == [0, 1, 2]
    for row, (one, width) in enumerate(zip(samples, (2, 5, 3), strict=True)):
        assert torch.equal(batch["prompt_embeds"][row, :width], one.trajectory["prompt_embeds"])
        assert not batch["prompt_embeds"][row, width:].any()
        assert torch.equal(batch["latents", "x", "all"][row], one.trajectory["latents", "x", "all"])


def test_collate_pads_further_text_encoders_with_their_masks():
    """SD3, FLUX and Wan name theirs otherwise; tensors without a token dimension stay as they are."""
    samples = [sample(number, 3) for number in range(2)]
    for one, width in zip(samples, (2, 4), strict=True):
        one.trajectory["condition"] = TensorDict(
            {
                "prompt_attention_mask": torch.ones(width),
                "prompt_embeds_2": torch.ones(width, 4),
                "image": torch.ones(3),
            }
        )
    condition = trajectory.collate(samples)["condition"]
    assert condition["prompt_attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert condition["prompt_embeds_2"].shape == (2, 4, 4)
    assert condition["image"].shape == (2, 3)


def test_collate_does_not_pad_what_no_mask_goes_with():
    samples = [sample(number, width) for number, width in enumerate((2, 5))]
    for one in samples:
        one.trajectory = one.trajectory.exclude("prompt_embeds_mask", "prompt_ids")
    with pytest.raises(RunError, match=r"samples have prompt_embeds of different lengths, and no mask"):
        trajectory.collate(samples)


def test_collate_leaves_media_out_and_the_samples_alone():
    """Pictures may differ in size and are of no use in training."""
    samples = [sample(0, 2), sample(1, 5)]
    assert "media" not in trajectory.collate(samples).keys()
    assert [tuple(one.trajectory["prompt_embeds"].shape) for one in samples] == [(2, 4), (5, 4)]
    assert all("media" in one.trajectory.keys() for one in samples)


def test_collate_skips_samples_that_failed():
    failed = Sample(sample(1, 2).request, error="lost")
    assert trajectory.collate([sample(0, 2), failed, sample(2, 2)])["sample_id"].tolist() == [0, 2]


def test_numbers_of_the_call_are_kept_exactly_and_words_are_not():
    call = {"guidance_scale": 0.1, "height": 2**53 - 1, "use_cfg": True, "negative_prompt": "ugly", "sizes": [1, 2]}
    found = trajectory.numeric_call(call, rows=2)
    assert {name: value.tolist() for name, value in found.items()} == {
        "guidance_scale": [0.1, 0.1],
        "height": [2**53 - 1] * 2,
        "use_cfg": [1.0, 1.0],
    }


def test_masks_of_a_batch():
    mask = torch.tensor([[True, False]])
    assert equal(trajectory.masks_of(TensorDict({"mask": {"x": mask}}, batch_size=[1])), {"x": mask})
    assert trajectory.masks_of(TensorDict({"uid": torch.zeros(1)}, batch_size=[1])) == {}
