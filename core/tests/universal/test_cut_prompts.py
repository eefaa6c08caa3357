"""No prompt loses words in silence, whoever encodes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rl.contracts.prompts import PromptRow
from omni_rl.errors import DataError
from omni_rl.model.encoding import encode
from omni_rl.model.loading import load_model
from omni_rl.run import data_check
from omni_rl_testing.parts import Parts, assemble
from omni_rl_tiny import pipelines, tiny_random

LONG = "zebra apple 7 " * 60
SILENT = ("ChromaPipeline", "SanaPipeline", "AuraFlowPipeline", "CogView4Pipeline", "HunyuanVideoPipeline",
          "LTXPipeline", "MochiPipeline", "Lumina2Pipeline", "QwenImagePipeline")  # fmt: skip


def parts_of(name: str) -> Parts:
    model = load_model(tiny_random(name), device=torch.device("cpu"), precision="fp32", full=True)
    return assemble(model, rollout={"call": pipelines.CALLS[name]})


def refused(parts: Parts, **change: str) -> str:
    with torch.no_grad(), pytest.raises(DataError) as raised:
        encode(parts.model, [replace(parts.requests()[0], **change)])
    return raised.value.what


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")  # of third parties, about precision on a CPU
@pytest.mark.parametrize("name", SILENT)
def test_a_pipeline_that_cuts_prompts_is_noticed(name: str):
    parts = parts_of(name)
    with torch.no_grad():
        encode(parts.model, parts.requests())
    assert "a prompt has" in refused(parts, prompt=LONG)
    assert "the negative prompt has" in refused(parts, negative_prompt=LONG)


@pytest.mark.ci
def test_every_bad_row_is_listed_before_training(tmp_path, monkeypatch):
    """Texts are only tokenised, and sound ones are not looked at again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parts = parts_of("LTXPipeline")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    rows = [PromptRow(LONG if i % 3 == 2 else f"a {i}", line=i + 1) for i in range(90)]
    rows[0] = replace(rows[0], media={"image": str(tmp_path / "broken.png")})

    def check(**data: str) -> None:
        config = parts.config.model_copy(update={"data": parts.config.data.model_copy(update=data)})
        data_check.check_data(parts.model, config, "x", {"data": rows}, print)

    with pytest.raises(DataError) as raised:
        check()
    lines = str(raised.value).splitlines()
    assert "31 of 90 rows cannot be used" in lines[0]
    assert lines[1].strip().startswith("under-test:1: ")
    assert "broken.png is not a readable image" in lines[1]
    assert lines[2].strip().startswith("under-test:3: a prompt has")
    assert "and 11 more" in str(raised.value)
    assert len(lines) < 30
    check(check="off")
    with pytest.raises(DataError, match="of 64 rows"):
        check(check="sample")
    rows[:] = [PromptRow("a"), PromptRow("b")]
    check()
    monkeypatch.setattr(data_check, "encode_prompts", None)  # what is remembered is not encoded again
    check()
