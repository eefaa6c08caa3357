"""Scenes out of files in GenEval's layout."""

from __future__ import annotations

import json

import pytest

from omni_rl.contracts.schema import Data
from omni_rl.data import prompts
from omni_rl.errors import DataError
from omni_rl_geneval import read_geneval

SCENES = [
    {"tag": "single_object", "include": [{"class": "kite", "count": 1}], "prompt": "a photo of a kite"},
    {
        "tag": "counting",
        "include": [{"class": "vase", "count": 3}],
        "exclude": [{"class": "vase", "count": 4}],
        "prompt": "a photo of three vases",
    },
    {
        "tag": "position",
        "include": [{"class": "bench", "count": 1}, {"class": "bird", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a bird left of a bench",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "bus", "count": 1, "color": "white"}, {"class": "cup", "count": 1, "color": "red"}],
        "prompt": "a photo of a white bus and a red cup",
    },
]


def written(path, *lines):
    path.write_text("".join(f"{json.dumps(line) if isinstance(line, dict) else line}\n" for line in lines))
    return path


def test_scenes_reach_rewards_as_they_are_written(tmp_path) -> None:
    data = Data(path=str(written(tmp_path / "evaluation_metadata.jsonl", *SCENES)), format="geneval")
    rows = prompts.load(data, {"geneval": read_geneval}.__getitem__).rows
    assert [{**row.metadata, "prompt": row.prompt} for row in rows] == SCENES


def test_another_column_may_hold_the_prompt(tmp_path) -> None:
    scene = {"tag": "colors", "include": [{"class": "boat", "count": 1}], "prompt": "a boat", "long": "a boat at noon"}
    (row,) = read_geneval(written(tmp_path / "scenes.jsonl", scene), "long")
    assert (row.prompt, row.metadata["prompt"]) == ("a boat at noon", "a boat")


WRONG = {
    "no tag": ({"tag": None}, "tag: input should be a valid string"),
    "nothing wanted": ({"include": []}, "include: list should have at least 1 item"),
    "no class": ({"include": [{"count": 1}]}, "include.0.class: field required"),
    "count as text": (
        {"include": [{"class": "dog", "count": "2"}]},
        "include.0.count: input should be a valid integer",
    ),
    "none of it": (
        {"include": [{"class": "dog", "count": 0}]},
        "include.0.count: input should be greater than or equal",
    ),
    "misspelt": ({"include": [{"class": "dog", "count": 1, "colour": "red"}]}, "include.0.colour: extra inputs"),
    "relation": (
        {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["beside", 0]}]},
        "include.1.position.0: input should be 'left of', 'right of', 'above' or 'below'",
    ),
    "itself": (
        {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 1]}]},
        "include.1.position refers to entry 1, which is not an earlier entry",
    ),
    "colour of what must not be there": (
        {"exclude": [{"class": "dog", "count": 1, "color": "red"}]},
        "exclude.0.color: extra inputs",
    ),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_a_scene_that_cannot_be_evaluated_names_file_and_line(tmp_path, change, says) -> None:
    file = written(tmp_path / "scenes.jsonl", SCENES[0], "", {**SCENES[0], **change})
    with pytest.raises(DataError) as caught:
        read_geneval(file, "prompt")
    assert str(caught.value).startswith(f"{file}:3: {says}")


def test_what_is_wrong_with_the_json_is_said_as_for_jsonl(tmp_path) -> None:
    file = written(tmp_path / "scenes.jsonl", SCENES[0], '{"tag": ')
    with pytest.raises(DataError, match=r"scenes\.jsonl:2: broken JSON at column 8"):
        read_geneval(file, "prompt")
    file = written(tmp_path / "scenes.jsonl", {"tag": "colors", "include": SCENES[0]["include"]})
    with pytest.raises(DataError, match=r"scenes\.jsonl:1: no column 'prompt'"):
        read_geneval(file, "prompt")
