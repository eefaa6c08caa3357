"""The suites with fixtures for what a distribution offers: what ``omni-rl conformance`` runs.

A plugin's own tests name its pieces; here they come from an entry point, built from the options that a configuration
would give them. What the suite needs besides is the toy of :mod:`omni_rl_testing.toy`, or drawn pictures.
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

from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend, Engine
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
from omni_rl_testing.model import Media, ModelContract
from omni_rl_testing.reward import RewardContract
from omni_rl_testing.toy import toy_model
from omni_rl_testing.tracker import TrackerContract

SMALL = {"height": 32, "width": 64, "num_frames": 9}
"""Sizes that every architecture known to diffusers can draw, of those arguments that a pipeline takes."""

CALL = "call.json"
"""A file in a pipeline's folder that tells better ones."""

SIGN = (128, 64)
FRAMES, FRAME_RATE = 5, 8.0
SAMPLE_RATE = 16_000.0


class OfferedModel(ModelContract):
    """With a pipeline folder that the caller gave."""

    subject: ClassVar[Subject]

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls) -> object:
        """The entry point's module, or an instance of its class."""
        return _instance(cls.subject)

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls) -> Path:
        """As given."""
        assert cls.subject.model is not None
        return cls.subject.model

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        """Small sizes, where nothing else was asked for."""
        return _call(cls.subject, cls.subject.offer.key)

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Media]:
        """Drawn signs, where a picture is the pipeline's first argument, or one that it cannot do without."""
        taken = _parameters(cls.subject.offer.key)
        first = [name for name in taken if name != "self"][:1] == ["image"]
        if "image" not in taken or not (first or taken["image"].default is inspect.Parameter.empty):
            return ()
        files = [tmp_path_factory.mktemp("signs") / f"{ground}.png" for ground in ("red", "navy", "olive")]
        for number, file in enumerate(files):
            Image.fromarray(_sign(str(number), file.stem, 0)).save(file)
        return [{"image": str(file)} for file in files]


class OfferedAlgorithm(AlgorithmContract):
    """On the toy."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def algorithm(self) -> object:
        """From its options."""
        return _instance(self.subject)


class OfferedReward(RewardContract):
    """On drawn signs."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def reward(self) -> Any:
        """From its options."""
        return _instance(self.subject)

    @pytest.fixture
    def samples(self) -> RewardBatch:
        """Two groups of three."""
        return signs()


class OfferedEngine(EngineContract):
    """On the toy, or on a pipeline folder that the caller gave."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def engine(self) -> Callable[[Context], Engine]:
        """With its options."""
        return _with_options(self.subject)

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """The toy, in this process, or the folder."""
        folder = self.subject.model
        return toy_model if folder is None else lambda: _loaded(folder)

    @pytest.fixture
    def call(self) -> dict[str, Any]:
        """Nothing for the toy, small sizes for a folder."""
        folder = self.subject.model
        return dict(self.subject.call) if folder is None else _call(self.subject, _loaded(folder).architecture)


class OfferedBackend(BackendContract):
    """On the toy."""

    subject: ClassVar[Subject]

    @pytest.fixture
    def backend(self) -> Callable[[Context], Backend]:
        """With its options."""
        return _with_options(self.subject)


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
    }
)


def module_of(subject: Subject) -> ModuleType:
    """A module with the subject's suite in it, for pytest to collect.

    Raises:
        PluginError: what the distribution declares is not a suite of the kind.
    """
    module = ModuleType("conformance")
    module.__dict__["TestOffer"] = type("TestOffer", (_suite(subject),), {"subject": subject, "__module__": __name__})
    return module


def _suite(subject: Subject) -> type:
    if subject.declared is None:
        return OFFERED[subject.offer.kind]
    contract = CONTRACTS[subject.offer.kind]
    found = load(replace(subject.offer, target=subject.declared.value))
    if not (inspect.isclass(found) and issubclass(found, contract)):
        raise PluginError(
            f"{subject.offer.source}: {CONFORMANCE_GROUP} names {subject.declared.value} for the {subject}, which is no"
            " suite of its kind",
            f"name a class that inherits {contract.__module__}.{contract.__name__}",
        )
    return found


def signs() -> RewardBatch:
    """Six samples in two groups, each with picture, video and sound: numbers, some of them those asked for.

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
    """(H, W, 3) uint8, ``shift`` pixels off the middle."""
    ink = "black" if ground in ("white", "orange") else "white"
    picture = Image.new("RGB", SIGN, ground)
    place = (SIGN[0] / 2 + shift, SIGN[1] / 2)
    ImageDraw.Draw(picture).text(place, text, ink, ImageFont.load_default(50), anchor="mm", stroke_width=1)
    return np.asarray(picture)


def _instance(subject: Subject) -> Any:
    assert subject.chosen is not None
    return subject.chosen.instance()


def _with_options(subject: Subject) -> Callable[[Context], Any]:
    """What the entry point names, called with the subject's options in its context."""
    chosen = subject.chosen
    assert chosen is not None
    return lambda context: chosen.object(replace(context, options=chosen.options))


def _loaded(folder: Path) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)


def _call(subject: Subject, architecture: str) -> dict[str, Any]:
    known = _parameters(architecture)
    kept = subject.model / CALL if subject.model else None
    suits = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.is_file() else {}
    return {**{name: size for name, size in SMALL.items() if name in known}, **suits, **subject.call}


def _parameters(architecture: str) -> Mapping[str, inspect.Parameter]:
    """Of ``__call__``; none where diffusers does not know the pipeline."""
    pipeline = getattr(diffusers, architecture, None)
    return inspect.signature(pipeline.__call__).parameters if pipeline else {}
