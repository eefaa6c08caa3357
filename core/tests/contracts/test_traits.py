"""An algorithm that is not right for a configuration says so, with the place to mend it."""

from __future__ import annotations

from typing import Any

import pytest

from omni_rl.config.algorithm_traits import conflicts
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import AlgorithmTraits

PICKY = AlgorithmTraits(sde=("sde", "cps"), engines=("diffusers",), backends=("torch",), trained=("lora",))
ON_FINISHED_SAMPLES = AlgorithmTraits(sde=())


def config(**sections: Any) -> Config:
    base = {
        "model": {"path": "m", "lora": {"rank": 4}},
        "algorithm": {"name": "picky"},
        "reward": "brightness",
        "data": {"path": "p.txt"},
    }
    return Config.model_validate({**base, **sections})


def found(given: Config, traits: AlgorithmTraits) -> list[tuple[str, str, str]]:
    return [(".".join(place), what, hint) for place, what, hint in conflicts(given, "picky", traits)]


@pytest.mark.parametrize(
    ("sections", "place", "says"),
    [
        (
            {"rollout": {"sde": {"type": "dance_sde"}}},
            "rollout.sde.type",
            "does not run with transitions of type dance_sde",
        ),
        ({"rollout": {"sde": {"noise_level": 0}}}, "rollout.sde.noise_level", "compares densities of noisy steps"),
        ({"rollout": {"engine": "vllm-omni"}}, "rollout.engine", "does not run with the engine vllm-omni"),
        ({"train": {"backend": "other"}}, "train.backend", "does not run with the backend other"),
        ({"model": {"path": "m"}}, "model.lora", "picky trains lora weights only"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(sections, place, says):
    ((where, what, hint),) = found(config(**sections), PICKY)
    assert where == place
    assert says in what
    assert hint


def test_what_fits_is_left_alone():
    assert found(config(), PICKY) == []
    assert found(config(), AlgorithmTraits()) == []


def test_noise_does_not_concern_who_draws_none():
    assert found(config(rollout={"sde": {"noise_level": 0, "type": "dance_sde"}}), ON_FINISHED_SAMPLES) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_range": 0.2},
        {"samples_with": "olde"},
        {"samples_with": "old"},
        {"keeps": frozenset({"prev"})},
        {"engines": "diffusers"},
        {"sde": ("ode",)},
    ],
)
def test_traits_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="|".join(wrong)):
        AlgorithmTraits(**wrong)
