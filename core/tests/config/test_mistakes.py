"""Every kind of mistake, with the message that a user sees."""

from __future__ import annotations

import pytest

from omni_rl.config.resolve import resolve
from omni_rl.errors import ConfigError, DataError, ModelError, PluginError, UserError

SECTION = "a section (indented lines of key: value)"


def message(source, overrides=(), kind=ConfigError):
    with pytest.raises(UserError) as error:
        resolve(source, overrides)
    assert type(error.value) is kind
    return str(error.value)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("train:\n  lrr: 1\n", "config.yaml:10:3: unknown key 'train.lrr'. Did you mean 'lr'?"),
        ("tran: {}\n", "config.yaml:9:1: unknown key 'tran'. Did you mean 'train'?"),
        ("group_size: 4\n", "config.yaml:9:1: unknown key 'group_size'. Did you mean 'rollout.group_size'?"),
        (
            "rollout: {sde: {zzz: 1}}\n",
            "config.yaml:9:17: unknown key 'rollout.sde.zzz'.\n  rollout.sde takes: type, noise_level, log_prob",
        ),
        (
            "tracker: [fake_board, {name: fake_board, evry: 2}]\n",
            "config.yaml:9:42: unknown key 'tracker.1.evry'. Did you mean 'every'?",
        ),
        ("train: {lr: fast}\n", "config.yaml:9:9: train.lr takes a number, not 'fast'"),
        ("train: {lr: [1]}\n", "config.yaml:9:9: train.lr takes a number, not [1]"),
        ("train: {lr: .nan}\n", "config.yaml:9:9: train.lr takes a finite number, not nan"),
        ("train: {lr: }\n", "config.yaml:9:9: train.lr takes a number, not null (nothing)"),
        ("train: {iterations: 2.5}\n", "config.yaml:9:9: train.iterations takes a whole number, not 2.5"),
        ("train: {iterations: 0}\n", "config.yaml:9:9: train.iterations takes a number above 0, not 0"),
        ("train: {warmup: -1}\n", "config.yaml:9:9: train.warmup takes a number of at least 0, not -1"),
        ("train: {ema: {decay: 1}}\n", "config.yaml:9:15: train.ema.decay takes a number below 1, not 1"),
        ("train: {betas: [1]}\n", "config.yaml:9:9: train.betas takes a list of 2 numbers, not [1]"),
        ("train: {compile: 3}\n", "config.yaml:9:9: train.compile takes true or false, not 3"),
        ("train: {lr: true}\n", "config.yaml:9:9: train.lr takes a number, not true"),
        ("rollout: {steps: yes}\n", "config.yaml:9:11: rollout.steps takes a whole number, not 'yes'"),
        (
            "launcher: {name: local, nodes: 2}\n",
            "config.yaml:9:25: unknown key 'launcher.nodes'.\n  launcher takes: name, plugin, timeout_s",
        ),
        ("launcher: 3\n", "config.yaml:9:1: launcher takes a section (indented lines of key: value), not 3"),
        ("gate: maybe\n", "config.yaml:9:1: gate takes 'on', 'warn' or 'off', not 'maybe'"),
        (
            "rollout: {sde: {type: cpss}}\n",
            "config.yaml:9:17: rollout.sde.type takes 'sde', 'cps' or 'dance_sde', not 'cpss'. Did you mean 'cps'?",
        ),
        ("rollout:\n", f"config.yaml:9:1: rollout takes {SECTION}, not null (nothing)"),
        ("train: {ema: 3}\n", f"config.yaml:9:9: train.ema takes {SECTION}, not 3"),
        ("plugins: a.py\n", "config.yaml:9:1: plugins takes a list, not 'a.py'"),
        (
            "rollout: {call: {x: no}}\n",
            "config.yaml:9:18: rollout.call.x: no could be text or a boolean\n"
            "  write true or false, or 'no' in quotes if it is text",
        ),
    ],
)
def test_a_mistake_in_the_file(written, more, expected):
    assert message(written(more)) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'. Did you mean 'lr'?"),
        ("train.lr=x", "train.lr takes a number, not 'x'"),
        ("model.lora.targets=[1]", "model.lora.targets takes a list of text, or text, not [1]"),
        ("model.foo=1", "unknown key 'model.foo'.\n  model takes: path, plugin, lora, hub"),
        ("algorithm.clip_rang=1", "unknown key 'algorithm.clip_rang'. Did you mean 'clip_range'?"),
        ("algorithm.clip_range=0", "algorithm.clip_range takes a number above 0, not 0"),
        ("algorithm.clip_range=true", "algorithm.clip_range takes a number, not true"),
        ("algorithm.window=1.5", "algorithm.window takes a whole number, not 1.5"),
        ("algorithm.kl.bta=0", "unknown key 'algorithm.kl.bta'. Did you mean 'beta'?"),
        ("algorithm.kl.of=men", "algorithm.kl.of takes 'mean' or 'sample', not 'men'. Did you mean 'mean'?"),
        ("rollout.workrs=2", "unknown key 'rollout.workrs'. Did you mean 'workers'?"),
        ("reward.weigth=1", "unknown key 'reward.0.weigth'. Did you mean 'weight'?"),
        ("reward=[]", "reward takes a list of at least 1, not []"),
        ("reward=null", "reward takes a list, not null (nothing)"),
        ("algorithm.name=''", "algorithm.name takes text of length 1 or more, not ''"),
        ("model.path=''", "model.path takes text of length 1 or more, not ''"),
        ("launcher=''", "launcher.name takes text of length 1 or more, not ''"),
        ("train.backend=''", "train.backend takes text of length 1 or more, not ''"),
        ("seed.x=1", "seed is a value and has no key 'x'"),
        ("device=gpu", "device takes auto, cpu, cuda or cuda:N, not 'gpu'"),
        ("device=cuda:x", "device takes auto, cpu, cuda or cuda:N, not 'cuda:x'"),
        (
            "rollout.group_size=1",
            "rollout.group_size is 1, and fake_grpo compares the samples of a prompt\n"
            "  a group of one has no advantage: set rollout.group_size to 2 or more",
        ),
        (
            "train.mini_batch_prompts=9",
            "train.mini_batch_prompts is 9, but an iteration has rollout.prompts = 8\n"
            "  set it to 8 or less, or to null for all of them",
        ),
        ("rollout.call.num_inference_steps=3", "rollout.call.num_inference_steps cannot be set\n  set rollout.steps"),
        (
            "validation.call.num_inference_steps=3",
            "validation.call.num_inference_steps cannot be set\n  set validation.steps",
        ),
        ("rollout.call.prompt=a", "rollout.call.prompt cannot be set\n  prompts come from data.path"),
    ],
)
def test_a_mistake_in_an_override(project, override, expected):
    assert message("config.yaml", [override]) == f"override '{override}': {expected}"


def test_an_algorithm_may_do_without_groups(project):
    assert resolve("config.yaml", ["algorithm.name=fake_lonely", "rollout.group_size=1"]).config.rollout.group_size == 1


def test_a_mapping_instead_of_a_file_has_no_lines(project):
    values = {"model": {"path": "pipeline"}, "algorithm": {"name": "fake_grpo"}, "reward": "fake_bright"}
    assert message({**values, "data": {"path": "prompts.txt", "shufle": True}}) == (
        "the configuration: unknown key 'data.shufle'. Did you mean 'shuffle'?"
    )


def test_missing_sections_and_keys_come_with_an_example(written):
    text = "model: {}\nreward: {weight: 1}\ndata:\n  shuffle: true\n"
    assert message(written(base=text)) == (
        "4 problems in config.yaml:\n"
        "  config.yaml:1:1: model needs the key 'path' "
        "(name of a shipped checkpoint, folder of a diffusers pipeline, or with `hub: true` a hub id)\n"
        "      for example: path: ./my-pipeline\n"
        "  config.yaml: the section 'algorithm' is missing (the RL objective)\n"
        "      for example: algorithm: {name: flow_grpo}\n"
        "  config.yaml:2:1: reward.0 needs the key 'name' (reward)\n"
        "      for example: name: ocr\n"
        "  config.yaml:3:1: data needs the key 'path' "
        "(prompt file: relative to the configuration file, or <shipped checkpoint>/<file>)\n"
        "      for example: path: prompts.txt"
    )


def test_all_mistakes_are_reported_together(written):
    text = "train:\n  lrr: 1\n  iterations: many\nalgorithm2: {}\n"
    assert message(written(text), ["seed", "algorithm.clip_rang=1", "data.path=prompt.txt"]) == (
        "6 problems in config.yaml:\n"
        "  override 'seed' is not of the form key.sub=value\n"
        "      write key.sub=value, for example train.lr=1e-3 or reward.0.weight=2\n"
        "  config.yaml:11:3: train.iterations takes a whole number, not 'many'\n"
        "  config.yaml:12:1: unknown key 'algorithm2'. Did you mean 'algorithm'?\n"
        "  override 'algorithm.clip_rang=1': unknown key 'algorithm.clip_rang'. Did you mean 'clip_range'?\n"
        "  config.yaml:10:3: unknown key 'train.lrr'. Did you mean 'lr'?\n"
        "  override 'data.path=prompt.txt': there is no prompt file 'prompt.txt'. Did you mean 'prompts.txt'?"
    )


def test_no_more_mistakes_than_fit_on_a_screen(project):
    lines = message("config.yaml", [f"rollout.zz{i}=1" for i in range(10)]).splitlines()
    assert lines[0] == "10 problems in config.yaml:"
    assert lines[1] == "  override 'rollout.zz0=1': unknown key 'rollout.zz0'."
    assert lines[2].startswith("      rollout takes: ")  # said once
    assert lines[3] == "  override 'rollout.zz1=1': unknown key 'rollout.zz1'."
    assert lines[-2:] == ["  override 'rollout.zz7=1': unknown key 'rollout.zz7'.", "  and 2 more"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("algorithm.name=fake_grop", "No algorithm 'fake_grop' is installed. Did you mean 'fake_grpo'?"),
        ("rollout.engine=warp", "No engine 'warp' is installed."),
        ("train.backend=warp", "No backend 'warp' is installed."),
        ("launcher=warp", "No launcher 'warp' is installed."),
        ("reward=fake_brigt", "No reward 'fake_brigt' is installed. Did you mean 'fake_bright'?"),
        ("reward.0=warp", "No reward 'warp' is installed."),
        ("tracker=warp", "No tracker 'warp' is installed."),
        ("data.format=warp", "No dataset format 'warp' is installed."),
        ("model.plugin=warp", "model.plugin names 'warp', which offers no model 'FakePipeline'."),
    ],
)
def test_a_plugin_that_is_not_there(project, override, expected):
    assert message("config.yaml", [override], PluginError).startswith(f"override '{override}': {expected}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "model.path=pipelin",
            "model.path 'pipelin' is neither an installed checkpoint nor a folder. Did you mean 'pipeline'?\n"
            "  installed checkpoints: none",
        ),
        (
            "model.path=some/model",
            "model.path 'some/model' is neither an installed checkpoint nor a folder.\n"
            "  installed checkpoints: none\n"
            "  if it is the id of a model on the hub, allow the download with model.hub: true",
        ),
        ("model.path=prompts.txt", "model.path 'prompts.txt' is a file\n  give the folder of a diffusers pipeline"),
        (
            "model.path=.",
            "model.path '.' is no diffusers pipeline: it has no model_index.json\n"
            "  but these folders in it are pipelines: pipeline",
        ),
    ],
)
def test_a_model_that_is_not_there(project, override, expected):
    assert message("config.yaml", [override], ModelError) == f"override '{override}': {expected}"


@pytest.mark.parametrize(
    ("content", "why"),
    [("{", "JSONDecodeError"), ("{}", "KeyError('_class_name')"), ("[]", "TypeError"), ('{"_class_name": 3}', "is 3")],
)
def test_an_index_that_names_no_pipeline(project, content, why):
    (project / "pipeline" / "model_index.json").write_text(content)
    text = message("config.yaml", kind=ModelError)
    assert text.startswith(f"config.yaml:3:3: {project}/pipeline/model_index.json does not name a pipeline class")
    assert why in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("prompt.txt", "there is no prompt file 'prompt.txt'. Did you mean 'prompts.txt'?"),
        ("zz", "there is no prompt file 'zz'\n  files in that folder: config.yaml, prompts.txt"),
        ("nowhere/zz", "there is no prompt file 'nowhere/zz'"),
    ],
)
def test_prompts_that_are_not_there(project, name, expected):
    assert message("config.yaml", [f"data.path={name}"], DataError) == f"override 'data.path={name}': {expected}"


def test_prompts_whose_format_nobody_says(project):
    (project / "prompts").write_text("a sign")
    assert message("config.yaml", ["data.path=prompts"]) == (
        "override 'data.path=prompts': the file name 'prompts' has no suffix, so its format is unknown\n"
        "  set data.format, for example to txt"
    )
    assert resolve("config.yaml", ["data.path=prompts", "data.format=txt"]).dataset.key == "txt"


ALGO = """
from pydantic import BaseModel, ConfigDict, Field


class Algo:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        year: str = Field("2025", pattern=r"^[0-9]{4}$")
        at_least: float = Field(1.0, ge=0.5, alias="min")
        mix: dict[str, int] | list[int] = Field(default_factory=dict)
"""


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("algorithm.year='25'", "algorithm.year is '25': String should match pattern '^[0-9]{4}$'"),
        ("algorithm.min=0", "algorithm.min takes a number of at least 0.5, not 0"),
        ("algorithm.at_least=1", "unknown key 'algorithm.at_least'.\n  algorithm takes: year, min, mix, name, plugin"),
        ("algorithm.mix={a: b}", f"algorithm.mix takes {SECTION}, or a list of whole numbers, not {{'a': 'b'}}"),
    ],
)
def test_a_plugins_own_types(project, distribution, override, expected):
    distribution("omni-rl-y", {"algorithms": {"fake_algo": ":Algo"}}, ALGO)
    overrides = ["algorithm.name=fake_algo", override]
    assert message("config.yaml", overrides) == f"override '{override}': {expected}"
    assert resolve("config.yaml", ["algorithm.name=fake_algo", "algorithm.min=2"]).config.algorithm.options() == {
        "year": "2025",
        "min": 2.0,
        "mix": {},
    }
