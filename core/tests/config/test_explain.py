"""A resolved configuration as text, and back."""

from __future__ import annotations

import pytest
import yaml

from omni_rl.config.explain import dump, explain
from omni_rl.config.resolve import resolve

FULL = """\
seed: null
model: {path: pipeline, lora: {rank: 4, alpha: 1e-1}}
algorithm: {name: fake_grpo, kl: {beta: 1e-3}}
rollout:
  call: {negative_prompt: 'no', guidance: null, width: 64}
reward:
  - fake_bright
  - {name: fake_judge, weight: -1, label: 'on', file: judge.txt}
data: {path: prompts.txt, prompt_column: 1e5}
train: {betas: [0.8, 0.9], ema: {}}
validation: {data: {path: prompts.txt}, reward: fake_judge, every: 0}
tracker: fake_board
gate: off
plugins: [mine.py]
"""


@pytest.fixture
def resolved(project, model, pair, written):
    (project / "judge.txt").write_text("be kind")
    (project / "mine.py").write_text("")
    text = FULL.replace("prompt_column: 1e5", "prompt_column: '1e5'")
    return resolve(written(base=text), ["train.lr=5e-5", "rollout.group_size=4"])


def test_the_resolved_file_resolves_to_the_same_values_elsewhere(resolved, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "1"
    run.mkdir(parents=True)
    (run / "config.resolved.yaml").write_text(dump(resolved), encoding="utf-8")
    monkeypatch.chdir(run)
    again = resolve("config.resolved.yaml")
    assert again.config == resolved.config
    assert again.config.rollout.call == resolved.config.rollout.call
    assert again.algorithm.options == resolved.algorithm.options
    assert [each.options for each in again.rewards] == [each.options for each in resolved.rewards]
    assert {key: origin.value for key, origin in again.origins.items()} == {
        key: origin.value for key, origin in resolved.origins.items()
    }
    assert {origin.layer.partition(":")[0] for origin in again.origins.values()} == {"config.resolved.yaml"}
    assert dump(again) == dump(resolved)


def test_the_resolved_file_means_the_same_to_any_yaml_reader(resolved):
    assert yaml.safe_load(dump(resolved)) == resolved.config.model_dump(mode="json")


def test_every_effective_value_is_explained(resolved, project):
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in explain(resolved).splitlines() if line}
    assert set(resolved.origins) <= set(lines)
    expected = {
        "seed": f"{resolved.config.seed} picked",
        "train.lr": "5e-05 override",
        "train.betas": "[0.8, 0.9] config.yaml:10",
        "train.ema.decay": "0.95 core",
        "rollout.steps": "40 pair omni-rl-fake-pair 1.0",
        "rollout.call.guidance": "null config.yaml:5",
        "rollout.call.negative_prompt": '"no" config.yaml:5',
        "rollout.workers": "1 engine omni-rl 1.0",
        "model.lora.targets": '["to_q", "to_k"] model plugin omni-rl-fake-model 1.0',
        "model.lora.alpha": "0.1 config.yaml:2",
        "algorithm.clip_range": "0.002 algorithm omni-rl-fake-grpo 0.3",
        "reward.0.name": '"fake_bright" config.yaml:7',
        "reward.1.threshold": "0.5 reward omni-rl 1.0",
        "data.path": f'"{project}/prompts.txt" config.yaml:9',
        "validation.reward.0.name": '"fake_judge" config.yaml:11',
        "tracker.0.every": "1 tracker omni-rl 1.0",
        "gate": '"off" config.yaml:13',
        "architecture": "FakePipeline omni-rl-fake-model 1.0",
        "pair": "FakePipeline:fake_grpo omni-rl-fake-pair 1.0",
        "engine": "diffusers omni-rl 1.0",
    }
    assert {key: " ".join(lines[key].split()) for key in expected} == expected


def test_the_universal_adapter_is_named(project):
    line = next(line for line in explain(resolve("config.yaml")).splitlines() if line.startswith("architecture"))
    assert line.split(maxsplit=2) == ["architecture", "FakePipeline", "universal adapter"]


def test_places_are_known_by_dotted_key(resolved):
    assert resolved.place("reward.1.weight") == "config.yaml:8:24"
    assert resolved.place("train.lr") == "override 'train.lr=5e-5'"
    assert resolved.place("rollout.batch_size") == "config.yaml:4:1"  # the section, as nobody mentions the key
