"""Contract suites with fixtures for any installed plugin; ``omni-rl conformance`` runs them.

In a plugin's own tests, the plugin is a fixture. Here it is loaded from its entry point, with options as in a
configuration. The other fixtures are the toy pipeline of :mod:`omni_rl_testing.toy`, or drawn images.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel

from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Engine, Launcher
from omni_rl.contracts.media import Media as Drawn
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import PluginError
from omni_rl.model.loading import load_model
from omni_rl.plugins.discovery import CONFORMANCE_GROUP, load
from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.backend import BackendContract
from omni_rl_testing.conformance.subjects import Subject
from omni_rl_testing.engine import EngineContract
from omni_rl_testing.launcher import LauncherContract
from omni_rl_testing.model import Media, ModelContract
from omni_rl_testing.ranks import RanksContract, on_ranks
from omni_rl_testing.reward import RewardContract
from omni_rl_testing.toy import toy_model
from omni_rl_testing.tracker import TrackerContract

SMALL = {"height": 32, "width": 64, "num_frames": 9}
"""Sizes that every diffusers pipeline can generate; arguments that a pipeline does not have are left out."""

CALL = "call.json"
"""A file in a pipeline's folder with better values."""

SIGN = (128, 64)
FRAMES, FRAME_RATE = 5, 8.0
SAMPLE_RATE = 16_000.0


class OfferedModel(ModelContract):
    """Tests a model plugin with a pipeline folder of the caller."""

    subject: ClassVar[Subject]

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls) -> object:
        """The module of the entry point, or an instance of its class."""
        return _instance(cls.subject)

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls) -> Path:
        """The caller's pipeline folder."""
        assert cls.subject.model is not None
        return cls.subject.model

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        """The caller's arguments; small sizes for the others."""
        return _call(cls.subject, cls.subject.offer.key)

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Media]:
        """Drawn signs if the pipeline's first argument is an image, or if the pipeline requires an image."""
        taken = _parameters(cls.subject.offer.key)
        first = [name for name in taken if name != "self"][:1] == ["image"]
        if "image" not in taken or not (first or taken["image"].default is inspect.Parameter.empty):
            return ()
        files = [tmp_path_factory.mktemp("signs") / f"{ground}.png" for ground in ("red", "navy", "olive")]
        for number, file in enumerate(files):
            Image.fromarray(_sign(str(number), file.stem, 0)).save(file)
        return [{"image": str(file)} for file in files]


class OfferedAlgorithm(AlgorithmContract):
    """Tests an algorithm with the toy pipeline."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def options(self) -> BaseModel | None:
        """The caller's options."""
        assert self.subject.chosen is not None
        return self.subject.chosen.options

    @pytest.fixture
    def algorithm(self) -> object:
        """An instance with the caller's options."""
        return _instance(self.subject)


class OfferedReward(RewardContract):
    """Tests a reward with drawn signs."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def reward(self) -> Any:
        """An instance with the caller's options."""
        return _instance(self.subject)

    @pytest.fixture
    def samples(self) -> RewardBatch:
        """Two groups of three samples."""
        return signs()


class _WithPipeline:
    """The fixtures of suites that need a pipeline."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """The toy pipeline in this process, or the pipeline of the folder."""
        return _make_model(self.subject)

    @pytest.fixture
    def call(self) -> dict[str, Any]:
        """No arguments for the toy pipeline, small sizes for a folder."""
        return _call_of_made(self.subject)


class OfferedEngine(_WithPipeline, EngineContract):
    """Tests an engine with the toy pipeline, or with a pipeline folder of the caller."""

    @pytest.fixture
    def engine(self) -> Callable[[Context], Engine]:
        """The engine with the caller's options."""
        return _with_options(self.subject)


class OfferedBackend(_WithPipeline, BackendContract):
    """Tests a backend with the toy pipeline, or with a pipeline folder of the caller."""

    @pytest.fixture
    def backend(self) -> Callable[[Context], Backend]:
        """The backend with the caller's options."""
        return _with_options(self.subject)


class OfferedBackendOnRanks(RanksContract):
    """Tests a backend on two ranks with the toy pipeline, or with a pipeline folder of the caller."""

    subject: ClassVar[Subject]

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls) -> Path | None:
        """The caller's pipeline folder."""
        return cls.subject.model

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        """No arguments for the toy pipeline, small sizes for a folder."""
        return _call_of_made(cls.subject)

    @pytest.fixture(scope="module")
    @classmethod
    def backend(cls) -> object:
        """The object of the entry point."""
        assert cls.subject.chosen is not None
        return cls.subject.chosen.object

    @pytest.fixture(scope="module")
    @classmethod
    def options(cls) -> Mapping[str, Any] | None:
        """The caller's options."""
        assert cls.subject.chosen is not None
        options = cls.subject.chosen.options
        return None if options is None else options.model_dump(mode="json", by_alias=True)


class OfferedLauncher(LauncherContract):
    """Tests a launcher with small functions."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def launcher(self) -> Launcher:
        """The function, or an instance with the caller's options."""
        launcher: Launcher = _instance(self.subject)
        return launcher


class OfferedTracker(TrackerContract):
    """On a run that is made up."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def make_tracker(self) -> Callable[[], Any]:
        """From its options."""
        return lambda: _instance(self.subject)


CONTRACTS: Mapping[str, type] = MappingProxyType(
    {
        "models": ModelContract,
        "algorithms": AlgorithmContract,
        "rewards": RewardContract,
        "engines": EngineContract,
        "backends": BackendContract,
        "trackers": TrackerContract,
        "launchers": LauncherContract,
    }
)
OFFERED: Mapping[str, type] = MappingProxyType(
    {
        "models": OfferedModel,
        "algorithms": OfferedAlgorithm,
        "rewards": OfferedReward,
        "engines": OfferedEngine,
        "backends": OfferedBackend,
        "trackers": OfferedTracker,
        "launchers": OfferedLauncher,
    }
)


def module_of(subject: Subject) -> ModuleType:
    """A module that contains the subject's suite, which pytest can collect.

    Raises:
        PluginError: the class that the distribution declares is not a suite of this kind.
    """
    module, suite = ModuleType("conformance"), _suite(subject)
    suites = {"TestOffer": suite}
    if subject.ranks and subject.offer.kind in ("models", "backends"):
        suites["TestOnRanks"] = on_ranks(suite) if subject.offer.kind == "models" else OfferedBackendOnRanks
    for name, each in suites.items():
        module.__dict__[name] = type(name, (each,), {"subject": subject, "__module__": __name__})
    return module


def _suite(subject: Subject) -> type:
    if subject.declared is None:
        return OFFERED[subject.offer.kind]
    contract = CONTRACTS[subject.offer.kind]
    suite = load(replace(subject.offer, target=subject.declared.value))
    if not (inspect.isclass(suite) and issubclass(suite, contract)):
        raise PluginError(
            f"{subject.offer.source}: {CONFORMANCE_GROUP} names {subject.declared.value} for the {subject}, which is"
            " not a suite of this kind",
            f"name a class that inherits {contract.__module__}.{contract.__name__}",
        )
    return suite


def signs() -> RewardBatch:
    """Six samples in two groups, each with image, video and audio. The images show numbers; some are those of the
    prompt.

    They differ in brightness, colour, detail, motion and loudness. ``metadata`` has the number under ``text``.
    """
    rows = [("42", "42", "red"), ("42", "17", "navy"), ("42", "", "white"), ("7", "7", "black"), ("7", "1", "olive")]
    rows += [("7", "770", "orange")]
    return RewardBatch(
        media=[_media(number, written, ground) for number, (_, written, ground) in enumerate(rows)],
        prompts=[f'a {ground} sign that says "{asked}"' for asked, _, ground in rows],
        metadata=[{"text": asked} for asked, _, _ in rows],
        uids=[0, 0, 0, 1, 1, 1],
    )


def _media(number: int, written: str, ground: str) -> dict[str, Drawn]:
    frames = np.stack([_sign(written, ground, 3 * number * i) for i in range(FRAMES)])  # (F, H, W, 3)
    time = np.arange(1600, dtype=np.float32) / SAMPLE_RATE
    tone = (number + 1) / 8 * np.sin(2 * np.pi * 110 * (number + 1) * time)[None]  # (1, S)
    return {
        "image": Drawn("image", frames[0]),
        "video": Drawn("video", frames, FRAME_RATE),
        "audio": Drawn("audio", tone.astype(np.float32), SAMPLE_RATE),
    }


def _sign(text: str, ground: str, shift: int) -> np.ndarray:
    """An image (H, W, 3) uint8 with the text ``shift`` pixels right of the centre."""
    ink = "black" if ground in ("white", "orange") else "white"
    picture = Image.new("RGB", SIGN, ground)
    place = (SIGN[0] / 2 + shift, SIGN[1] / 2)
    ImageDraw.Draw(picture).text(place, text, ink, ImageFont.load_default(50), anchor="mm", stroke_width=1)
    return np.asarray(picture)


def _instance(subject: Subject) -> Any:
    assert subject.chosen is not None
    return subject.chosen.instance()


def _with_options(subject: Subject) -> Callable[[Context], Any]:
    """The object of the entry point, called with a context that has the subject's options."""
    chosen = subject.chosen
    assert chosen is not None
    return lambda context: chosen.object(replace(context, options=chosen.options))


def _make_model(subject: Subject) -> Callable[[], LoadedModel]:
    folder = subject.model
    return toy_model if folder is None else lambda: _loaded(folder)


def _call_of_made(subject: Subject) -> dict[str, Any]:
    folder = subject.model
    return dict(subject.call) if folder is None else _call(subject, _loaded(folder).architecture)


def _loaded(folder: Path) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)


def _call(subject: Subject, architecture: str) -> dict[str, Any]:
    known = _parameters(architecture)
    kept = subject.model / CALL if subject.model else None
    suits = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.is_file() else {}
    return {**{name: size for name, size in SMALL.items() if name in known}, **suits, **subject.call}


def _parameters(architecture: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of the pipeline's ``__call__``; empty if diffusers does not know the pipeline."""
    pipeline = getattr(diffusers, architecture, None)
    return inspect.signature(pipeline.__call__).parameters if pipeline else {}
