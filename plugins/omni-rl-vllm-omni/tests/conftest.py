"""The real engine on a CPU, around tiny pipelines; nothing here runs where vLLM-Omni is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if util.find_spec("vllm_omni") else ["test_*.py"]

sys.path.append(str(Path(__file__).parents[3] / "core/tests"))  # model_cases


@dataclass
class Pair:
    """One model, with vLLM-Omni and with the embedded engine to sample from it."""

    parts: Any
    embedded: Any

    def both(self, requests: list[Any]) -> Iterator[tuple[Any, Any]]:
        """(vLLM-Omni's trajectory, the embedded engine's) of every request."""
        self.embedded.submit(requests)
        own = {sample.request.sample_id: sample.trajectory for sample in self.embedded.completed()}
        for sample in self.parts.draw(requests):
            assert sample.error is None, sample.error
            yield sample.trajectory, own[sample.request.sample_id]


@pytest.fixture(scope="session")
def pair(tiny_folder: Callable[[str], Path]) -> Iterator[Callable[..., Pair]]:
    """``pair("FluxPipeline", guided=True, step_execution="off")``: adapters are off zero.

    One engine at a time: it is kept until another one is asked for.
    """
    import torch
    from model_cases import GUIDED, OneWindow, unguided

    from omni_rl.contracts.spec import RunSpec
    from omni_rl.model.loading import load_model
    from omni_rl.plugins.runspec import CORE_HOOKS
    from omni_rl.sampling.embedded import EmbeddedEngine
    from omni_rl_testing.parts import assemble
    from omni_rl_vllm_omni import VllmOmniEngine
    from omni_rl_vllm_omni.options import VllmOmniConfig

    made: dict[Any, Pair] = {}

    def make(
        architecture: str, guided: bool = True, rank: int | None = 2, precision: str = "fp32", **options: Any
    ) -> Pair:
        key = (architecture, guided, rank, precision, *sorted(options.items()))
        if key not in made:
            while made:
                made.popitem()[1].parts.engine.close()
            model = load_model(
                tiny_folder(architecture), device=torch.device("cpu"), precision=precision, full=rank is None
            )
            call = GUIDED[architecture] if guided else unguided(GUIDED[architecture])
            spec = RunSpec(core=CORE_HOOKS)
            parts = assemble(
                model,
                algorithm=OneWindow(),
                engine=lambda c: VllmOmniEngine(replace(c, options=VllmOmniConfig(**options), spec=spec)),
                model={"lora": rank and {"rank": rank, "alpha": 2.0 * rank}},
                rollout={"steps": 5, "group_size": 3, "batch_size": 4, "call": call},
            )
            parts.nudge()
            parts.sync(0)
            made[key] = Pair(parts, EmbeddedEngine(replace(parts.context, shared_model=model)))
        return made[key]

    yield make
    for each in made.values():
        each.parts.engine.close()
