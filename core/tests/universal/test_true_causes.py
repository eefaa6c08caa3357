"""Whatever a pipeline's own code raises is one sentence with its cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_two_streams
from model_cases import OneWindow
from PIL import Image

from omni_rl.errors import ModelError
from omni_rl.model.loading import from_pipe
from omni_rl.universal import capture
from omni_rl_testing.parts import Parts, assemble

Toy = toy_two_streams.ToyTwoStreamsPipeline


def assembled(cls: type = Toy) -> Parts:
    pipe = cls(**toy_two_streams.pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    model = from_pipe(pipe, path=Path("toy"), device=torch.device("cpu"))
    return assemble(
        model, algorithm=OneWindow(), model={"lora": {"rank": 2}}, rollout={"call": dict(toy_two_streams.CALL)}
    )


def draw(assembly: Parts):
    return assembly.draw(assembly.requests())


class UnusualError(Exception):
    """Of no kind that Python has."""


@pytest.mark.parametrize(
    "error",
    [
        IndexError("index 0 is out of bounds"),
        AssertionError("not me"),
        NotImplementedError("later"),
        StopIteration("empty"),
        UnusualError("odd"),
        OSError("no such file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_pipeline_in_a_later_call_is_one_sentence(error):
    assembly = assembled()
    draw(assembly)

    def fail(*_):
        raise error

    handle = assembly.model.pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=f"ToyTwoStreamsPipeline fails: .*{error}") as raised:
        draw(assembly)
    handle.remove()
    assert raised.value.hint == "see rollout.call"
    assert raised.value.__cause__ is error


def test_lack_of_memory_stays_what_it_is():
    assembly = assembled()

    def fail(*_):
        raise torch.OutOfMemoryError("no memory")

    assembly.model.pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        draw(assembly)


class TakesOnePrompt(Toy):
    """As AceStep does with its lyrics: one text beside several prompts."""

    def encode_prompt(self, prompt, *args, **kwargs):
        ["only one"][len(prompt) - 1]
        return super().encode_prompt(prompt, *args, **kwargs)


def test_a_pipeline_that_takes_one_prompt_in_a_call():
    sentence = "TakesOnePrompt encodes one prompt, and does not take two in one call: .*IndexError"
    with pytest.raises(ModelError, match=sentence) as raised:
        draw(assembled(TakesOnePrompt))
    assert raised.value.hint == "this model needs a plugin: omni-rl new model"


class TakesListsOfImages:
    def __call__(
        self, images: list[Image.Image] | list[list[Image.Image]] | None = None, image: Image.Image = None, prompt=None
    ):
        return images, image


@pytest.mark.parametrize("given", ["one", "several"])
def test_images_of_one_prompt_are_a_list_in_a_list_where_the_pipeline_takes_those(given):
    """As JoyImageEditPlus does."""
    picture = Image.new("RGB", (4, 4))
    value = picture if given == "one" else [picture, picture]
    images, image = capture.run_call(TakesListsOfImages(), None, images=value, image=picture, prompt=["a"])
    assert images == [[picture] * (1 if given == "one" else 2)]
    assert image is picture
