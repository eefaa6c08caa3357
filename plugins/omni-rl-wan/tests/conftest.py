from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import pytest

import omni_rl_wan
from omni_rl.model.loaded import LoadedModel
from omni_rl.testing.assembly import Assembly
from omni_rl.testing.model import assembled

CALL = {"height": 16, "width": 32, "num_frames": 5, "max_sequence_length": 64, "negative_prompt": "hello"}


@pytest.fixture(scope="session")
def folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan 2.1."""
    built: Path = tiny.build("WanPipeline", tmp_path_factory.mktemp("wan"))
    return built


@pytest.fixture(scope="session")
def two_experts(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan 2.2, whose boundary lies at timestep 875."""
    built: Path = tiny.write(tiny.wan_of_two_experts, tmp_path_factory.mktemp("wan-of-two-experts"))
    return built


@pytest.fixture(scope="session")
def media_pipelines(tiny: ModuleType) -> ModuleType:
    """The builders of tiny random pipelines that take pictures."""
    import media_pipelines

    return media_pipelines


@pytest.fixture(scope="session")
def from_a_frame(
    tiny: ModuleType, media_pipelines: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``from_a_frame(builder)``: the folder of a tiny random WanImageToVideoPipeline."""

    @cache
    def folder(builder: str) -> Path:
        built: Path = tiny.write(getattr(media_pipelines, builder), tmp_path_factory.mktemp(builder))
        return built

    return folder


@pytest.fixture(scope="session")
def picture(media_pipelines: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``picture(number, (width, height))``: the path of a file."""
    folder = tmp_path_factory.mktemp("pictures")
    return lambda number, size: str(folder / media_pipelines.picture(folder / f"{number}.png", size, number))


@pytest.fixture(scope="module")
def parts(folder: Path) -> Assembly:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_wan, CALL, ("a", "b"))


@pytest.fixture(scope="module")
def parts_of_two(two_experts: Path) -> Assembly:
    """The same with two experts."""
    return assembled(two_experts, omni_rl_wan, CALL, ("a", "b"))


@pytest.fixture
def rows() -> Iterator[Callable[[LoadedModel], list[tuple[str, int]]]]:
    """``rows(model)``: (expert, rows) of every call from now on."""
    handles = []

    def watch(model: LoadedModel) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []
        for name, expert in model.denoisers.items():
            hook = partial(lambda name, _, args, kwargs: seen.append((name, len(kwargs["hidden_states"]))), name)
            handles.append(expert.register_forward_pre_hook(hook, with_kwargs=True))
        return seen

    yield watch
    for handle in handles:
        handle.remove()
