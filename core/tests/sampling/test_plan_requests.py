"""Arguments of rows (``data.call``) are treated as those of the whole run are."""

from __future__ import annotations

import pytest

from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import NO_STEPS
from omni_rl.contracts.schema import Config
from omni_rl.sampling.plan_requests import rollout_requests, validation_requests

RUN = {"guidance_scale": 4.0, "negative_prompt": "blurry", "height": 16}


class Hooks:
    @staticmethod
    def sde_window(**_):
        return NO_STEPS


def config(**validation) -> Config:
    sections = {"model": {"path": "x"}, "algorithm": {"name": "x"}, "reward": "x", "data": {"path": "x"}}
    rollout = {"prompts": 1, "group_size": 1, "call": RUN}
    return Config(**sections, rollout=rollout, validation={"call": validation}, seed=0)


@pytest.mark.parametrize(
    ("row", "negative", "call"),
    [
        ({}, "blurry", {"guidance_scale": 4.0, "height": 16}),
        ({"negative_prompt": "dark"}, "dark", {"guidance_scale": 4.0, "height": 16}),
        ({"negative_prompt": None}, None, {"guidance_scale": 4.0, "height": 16}),
        ({"guidance_scale": None, "height": 8}, "blurry", {"height": 8}),
        ({"guidance_scale": 4.5}, "blurry", {"guidance_scale": 4.5, "height": 16}),
    ],
)
def test_a_rows_arguments_replace_the_runs(row, negative, call):
    prompts = [PromptRow("a", call=row)]
    (drawn,) = rollout_requests(config(), Hooks(), PromptSet(prompts), 0, 0)
    (validated,) = validation_requests(config(), prompts, 0)
    for request in (drawn, validated):
        assert (request.negative_prompt, request.call) == (negative, call)


def test_an_explicit_override_of_a_validation_wins_over_a_row():
    prompts = [PromptRow("a", call={"guidance_scale": 7.0, "negative_prompt": "dark"})]
    (validated,) = validation_requests(config(guidance_scale=1.0), prompts, 0)
    assert (validated.negative_prompt, validated.call["guidance_scale"]) == ("dark", 1.0)
    (plain,) = validation_requests(config(), prompts, 0, changes={"guidance_scale": 1.0, "negative_prompt": None})
    assert (plain.negative_prompt, plain.call["guidance_scale"]) == (None, 1.0)
