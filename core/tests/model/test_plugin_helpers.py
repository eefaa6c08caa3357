"""What model plugins share: guidance in one call, sizes, lengths of prompts, arguments and their defaults."""

from __future__ import annotations

import pytest
import torch

from omni_rl.errors import ConfigError, DataError
from omni_rl.model.guidance import classifier_free, negative, positive
from omni_rl.model.limits import latent_frames, refuse_cut

CONDITIONING = {
    "prompt_embeds": torch.arange(6.0).view(2, 3, 1),
    "prompt_embeds_mask": torch.ones(2, 3),
    "negative_prompt_embeds": torch.full((2, 1, 1), 10.0),
    "negative_prompt_embeds_mask": torch.ones(2, 1),
    "first_frame": torch.tensor([[1.0], [2.0]]),
}


def velocity(x, t, text):
    """Sums what it is given, row by row, in two streams."""
    total = x["x"] + t[:, None] + (text["prompt_embeds"][..., 0] * text["prompt_embeds_mask"]).sum(1, keepdim=True)
    return {"x": total, "audio": total * text["first_frame"]}


def guided(scale, on=True, calls=None):
    def counted(x, t, text):
        if calls is not None:
            calls.append((len(t), sorted(text), tuple(text["prompt_embeds"].shape)))
        return velocity(x, t, text)

    x, t = {"x": torch.tensor([[0.5], [0.25]])}, torch.tensor([100.0, 200.0])
    return classifier_free(counted, x, t, CONDITIONING, scale, on)


def test_guidance_is_its_formula_from_one_call_of_both_texts():
    calls = []
    found = guided(4.0, calls=calls)
    assert calls == [(4, ["first_frame", "prompt_embeds", "prompt_embeds_mask"], (4, 3, 1))]
    with_prompt = torch.tensor([[100.5 + 3], [200.25 + 12]])
    without = torch.tensor([[100.5 + 10], [200.25 + 10]])
    expected = without + 4.0 * (with_prompt - without)
    torch.testing.assert_close(found["x"], expected)
    torch.testing.assert_close(found["audio"], expected * torch.tensor([[1.0], [2.0]]))


def test_without_guidance_it_is_the_prompts_velocity():
    calls = []
    found = guided(4.0, on=False, calls=calls)
    assert calls == [(2, ["first_frame", "prompt_embeds", "prompt_embeds_mask"], (2, 3, 1))]
    torch.testing.assert_close(found["x"], torch.tensor([[103.5], [212.25]]))


def test_what_belongs_to_neither_text_holds_for_both():
    assert positive(CONDITIONING).keys() == negative(CONDITIONING).keys()
    assert negative(CONDITIONING)["first_frame"] is CONDITIONING["first_frame"]
    assert negative(CONDITIONING)["prompt_embeds"] is CONDITIONING["negative_prompt_embeds"]


@pytest.mark.parametrize(("frames", "every", "expected"), [(1, 4, 1), (5, 4, 2), (81, 4, 21), (121, 8, 16), (7, 1, 7)])
def test_latent_frames(frames, every, expected):
    assert latent_frames(frames, every) == expected


@pytest.mark.parametrize(("frames", "near"), [(4, 5), (80, 81), (82, 81), (2, 1)])
def test_frames_that_a_pipeline_would_round_are_refused(frames, near):
    sentence = rf"rollout.call.num_frames: {frames} is not one more than a multiple of 4\n  try {near}$"
    with pytest.raises(ConfigError, match=sentence):
        latent_frames(frames, 4)


def test_a_prompt_that_would_be_cut_is_named():
    refuse_cut(["abc", "abcd"], [[0] * 3, [0] * 4], 4, "")
    with pytest.raises(
        DataError, match=r"has 5 tokens, .* keeps 4 of them: 'vwxyz'\.\.\.\n  shorten the prompt, or else"
    ):
        refuse_cut(["abc", "vwxyz"], [[0] * 3, [0] * 5], 4, ", or else")


def test_an_argument_is_the_calls_or_the_pipelines_default(cases):
    model = cases("StableDiffusion3Pipeline", True).assembly().model
    assert model.argument({"num_inference_steps": 3}, "num_inference_steps") == 3
    assert model.argument({}, "max_sequence_length") == 256
