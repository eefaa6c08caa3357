"""Arguments that differ from prompt to prompt are looked at where they are smallest and largest."""

from __future__ import annotations

import json

import pytest

SCALES = [3.0] * 8 + [4.5, 2.0]

ROUNDS = """
from omni_rl.universal import hooks as universal

@hookimpl
def predict(model, x, t, conditioning, call, step):
    scale = torch.as_tensor(call["guidance_scale"]).floor()
    return universal.predict(model=model, x=x, t=t, conditioning=conditioning, call={**call, "guidance_scale": scale})
"""


@pytest.fixture
def rows_of(judged, tmp_path):
    """The gate's rows for prompts that each have a guidance scale; the first iteration sees only equal ones."""
    path = tmp_path / "scales.jsonl"
    rows = [{"prompt": f"sign {i}", "guidance_scale": scale} for i, scale in enumerate(SCALES)]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = {"path": str(path), "call": ["guidance_scale"], "shuffle": False}
    return lambda **sections: judged("StableDiffusion3Pipeline", data=data, **sections)


def test_they_are_right_with_the_smallest_and_the_largest_value(rows_of):
    row = rows_of()["row arguments"]
    assert row.verdict == "ok", row
    labels = "the smallest guidance_scale (2.0) and the largest guidance_scale (4.5)"
    assert row.detail == f"samples are right with {labels}; log-probs replay to 0"


def test_a_plugin_that_rounds_them(rows_of):
    rows = rows_of(fault=ROUNDS)
    assert [name for name, row in rows.items() if row.verdict == "fail"] == ["row arguments"]
    sentence = "with the largest guidance_scale (4.5), without SDE noise, latents differ from the pipeline's own loop"
    assert rows["row arguments"].detail.startswith(sentence)
