from __future__ import annotations

import pytest
import torch

from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl.universal import media_conditioning
from omni_rl_flux import kontext
from omni_rl_testing.model import ModelContract, assembled
from omni_rl_testing.ranks import on_ranks

CALL = {"height": 16, "width": 32, "max_area": 512, "max_sequence_length": 64, "_auto_resize": False}
TRUE_CFG = {**CALL, "true_cfg_scale": 2.0, "negative_prompt": "hello"}


class TestPictures(ModelContract):
    """Of another size than the samples, with classifier-free guidance."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, kontext_folder):
        return kontext_folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return kontext

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return TRUE_CFG

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, picture):
        return [{"image": picture(i, (24, 36))} for i in range(3)]


TestOnRanks = pytest.mark.full(on_ranks(TestPictures))


@pytest.mark.ci
class TestWithoutCFG(TestPictures):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return CALL


@pytest.mark.ci
class TestNoPictures(TestPictures):
    @pytest.fixture(scope="module")
    @classmethod
    def media(cls):
        return ()


@pytest.fixture(scope="module")
def parts(kontext_folder, picture):
    """Of two prompts, whose pictures differ in size."""
    media = [{"image": picture(7, (24, 36))}, {"image": picture(8, (32, 16))}]
    return assembled(kontext_folder, kontext, CALL, ("a", "b"), media)


def point(parts, prompts=(0,)):
    """Arguments of ``predict`` for the first sample of some prompts."""
    requests = [parts.requests()[2 * i] for i in prompts]
    with torch.no_grad():
        text = universal.encode_prompt(
            model=parts.model, prompts=[r.prompt for r in requests], negative_prompts=None, call=CALL
        )
        media = universal.prepare_condition(model=parts.model, requests=requests)
    x = torch.randn(len(requests), 32, 16, generator=torch.Generator().manual_seed(0))
    return {"model": parts.model, "x": {"x": x}, "t": torch.tensor([311.0]), "conditioning": text | media}


def test_the_picture_stands_behind_the_sample_and_is_numbered_1(parts):
    given, seen = point(parts), []
    hook = parts.model.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        ours = kontext.predict(**given, call=CALL)["x"]
        universal.predict(**given, call=CALL)
    hook.remove()
    first, own = seen[0], seen[-1]
    assert ours.shape == (1, 32, 16)
    assert first["hidden_states"].shape == (1, 32 + 54, 16)
    assert torch.equal(first["img_ids"], own["img_ids"])
    torch.testing.assert_close(first["hidden_states"], own["hidden_states"], rtol=0, atol=1e-6)


def test_rows_whose_pictures_differ_in_size_are_drawn_apart(parts):
    """In one submission, as alone."""
    first, second = parts.requests()[0], parts.requests()[2]
    together = parts.draw([first, second])
    alone = [sample for request in (first, second) for sample in parts.draw([request])]
    for one, other in zip(together, alone, strict=True):
        a, b = (s.trajectory["latents", "x", "final"] for s in (one, other))
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    sizes = [s.trajectory["condition", f"{media_conditioning.SIZE}image"].tolist() for s in together]
    assert sizes == [[24, 36], [32, 16]]


def test_what_it_does_not_know_is_the_pipelines_own(parts):
    given, call = point(parts), {**CALL, "joint_attention_kwargs": {"scale": 0.5}}
    assert kontext.predict(**given, call=call) is None
    with torch.no_grad():
        half, whole = (parts.hooks.predict(**given, call=c, step=None)["x"] for c in (call, CALL))
    assert (half - whole).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"max_area": 1024}, "changes height 16 and width 32 to 20 and 44, to fill max_area 1024\n  try height: 16, w"),
        ({"height": 22}, "height 22 and width 32 to 16 and 24, .*\n  try height: 20, width: 32, max_area: 640"),
        ({"width": None}, "height 16 and width 256 to 4 and 88"),
    ],
)
def test_a_size_that_upstream_would_change_is_an_error(parts, call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kontext.prepare_latents(parts.model, {**CALL, **call})


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"max_area": 1024},
        {"height": 20, "width": 32, "max_area": 640},
        {"height": 12, "width": 12, "max_area": 144},
    ],
)
def test_shapes_are_upstreams(parts, call):
    conditioning, short = point(parts)["conditioning"], {"max_sequence_length": 64, "_auto_resize": False}
    own = universal.prepare_latents(model=parts.model, conditioning=conditioning, call={**short, **call})
    assert kontext.prepare_latents(parts.model, call) == own


def test_a_prompt_that_t5_would_cut_is_refused(parts):
    with pytest.raises(DataError, match="has 66 tokens, and the pipeline keeps 64"):
        kontext.encode_prompt(parts.model, ["7" * 64], None, CALL)
