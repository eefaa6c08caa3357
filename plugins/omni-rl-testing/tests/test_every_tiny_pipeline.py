"""The suite of model plugins on every tiny pipeline that omni-rl-tiny builds: its own pipelines pass what others must.

Pipelines that the universal adapter cannot train (benchmarks/results/universal_coverage.json) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omni_rl_testing import parts
from omni_rl_testing.model import Media, ModelContract
from omni_rl_tiny import pipelines

RECORD = Path(__file__).parents[3] / "benchmarks/results/universal_coverage.json"
VERDICTS = json.loads(RECORD.read_text(encoding="utf-8"))["pipelines"]
IN_CI = {"Lumina2Pipeline"}
"""The others' turn is in the full tier."""

SHORT = ("hello 9 signs", "a", "a sign")
EQUAL = ("a sign", "one 99", "a door")
PROMPTS = {
    "OvisImagePipeline": SHORT,  # 125 tokens with its template are most of what the pipeline keeps
    "Krea2Pipeline": SHORT,
    "CogView4ControlPipeline": EQUAL,  # refuses embeddings whose width is not that of the negative prompt's
}

pytestmark = [  # what diffusers' own code warns of
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # pipelines that import deprecated names of diffusers
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),  # of layers that tiny models leave out
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # tensors given to NumPy
]


class Tiny(ModelContract):
    """Without a plugin: the universal adapter."""

    architecture = ""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return pipelines.build(cls.architecture, tmp_path_factory.mktemp(cls.architecture))

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls) -> None:
        return None

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        return dict(pipelines.call_of(cls.architecture))

    @pytest.fixture(scope="module")
    @classmethod
    def prompts(cls) -> Sequence[str]:
        return PROMPTS.get(cls.architecture, parts.PROMPTS)

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Media]:
        from omni_rl_tiny.pipelines import pictures

        files = pictures.media(cls.architecture, tmp_path_factory.mktemp("pictures"), 3)
        return files if files[0] else ()

    @pytest.fixture(scope="module", autouse=True)
    @classmethod
    def _small_pictures(cls) -> Any:
        from omni_rl_tiny.pipelines import pictures

        with pytest.MonkeyPatch.context() as patch:
            pictures.small_pictures(patch)
            yield


def _suite(architecture: str) -> type:
    made = type(f"Test{architecture}", (Tiny,), {"architecture": architecture, "__module__": __name__})
    marked: type = getattr(pytest.mark, "ci" if architecture in IN_CI else "full")(made)
    return marked


for name in pipelines.BUILDERS:
    if VERDICTS.get(name, {}).get("verdict") == "pass":
        globals()[f"Test{name}"] = _suite(name)
del name
