"""core < model plugin < algorithm < pair < local files < file < override, and what a plugin may suggest."""

from __future__ import annotations

import pytest

from omni_rl.config.resolve import resolve
from omni_rl.contracts.call import effective_call
from omni_rl.errors import PluginError, UserError

LOCAL = """
from omni_rl import hookimpl


@hookimpl
def defaults():
    return {"rollout": {"steps": 50}}


class Mine:
    def __init__(self, config=None):
        pass


OMNI_RL = {"rewards": {"mine": Mine}}
"""


def rollout_call(resolved):
    """Arguments for the pipeline's ``__call__`` in rollout."""
    return effective_call(resolved.config.rollout.call)


@pytest.fixture
def steps(project):
    """``rollout.steps`` and the layer that set it."""

    def of(overrides=()):
        return tuple(resolve("config.yaml", overrides).origins["rollout.steps"])

    return of


def test_a_name_in_place_of_a_list_entry_is_its_short_form(project):
    resolved = resolve("config.yaml", ["reward=[{name: fake_bright, weight: 2}]", "reward.0=fake_bright"])
    assert [(entry.name, entry.weight) for entry in resolved.config.reward] == [("fake_bright", 1.0)]
    assert len(resolved.rewards) == 1


def test_core_is_least(steps):
    assert steps(["algorithm.name=fake_lonely"]) == (10, "core")


def test_the_model_plugin_is_above_core(steps, model):
    assert steps(["algorithm.name=fake_lonely"]) == (20, "model plugin omni-rl-fake-model 1.0")


def test_the_algorithm_is_above_the_model_plugin(steps, model):
    assert steps() == (30, "algorithm omni-rl-fake-grpo 0.3")


def test_the_pair_is_above_the_algorithm(steps, model, pair):
    assert steps() == (40, "pair omni-rl-fake-pair 1.0")


def test_a_local_file_is_above_the_pair(steps, model, pair, project):
    (project / "mine.py").write_text(LOCAL)
    assert steps(["plugins=[mine.py]"]) == (50, f"local {project}/mine.py")


def test_the_file_is_above_all_plugins(steps, model, pair, written):
    written("rollout:\n  steps: 60\n")
    assert steps() == (60, "config.yaml:10")


def test_an_override_is_above_the_file(steps, model, pair, written):
    written("rollout:\n  steps: 60\n")
    assert steps(["rollout.steps=70"]) == (70, "override")


def test_layers_merge_key_by_key(model, written):
    resolved = resolve(written("rollout: {call: {guidance: 7}}\n"), ["rollout.call.width=64"])
    assert rollout_call(resolved) == {"guidance": 7, "negative_prompt": "FakePipeline", "width": 64}
    assert [resolved.origins[f"rollout.call.{key}"].layer for key in rollout_call(resolved)] == [
        "config.yaml:9",
        "model plugin omni-rl-fake-model 1.0",
        "override",
    ]


def test_a_null_argument_is_left_to_the_pipeline(model, project):
    resolved = resolve("config.yaml", ["rollout.call.guidance=null", "validation.call={x: 1, negative_prompt: null}"])
    assert rollout_call(resolved) == {"negative_prompt": "FakePipeline"}
    assert effective_call(resolved.config.rollout.call, resolved.config.validation.call) == {"x": 1}


def test_a_suggestion_switches_nothing_on(model, project):
    assert resolve("config.yaml").config.model.lora is None
    resolved = resolve("config.yaml", ["model.lora.rank=4"])
    assert resolved.config.model.lora.model_dump() == {"rank": 4, "alpha": 32.0, "targets": ["to_q", "to_k"]}
    assert resolved.origins["model.lora.targets"].layer == "model plugin omni-rl-fake-model 1.0"
    assert resolve("config.yaml", ["model.lora={}"]).config.model.lora.targets == ["to_q", "to_k"]


def test_options_come_from_the_plugins_config_its_defaults_and_the_user(written):
    resolved = resolve(written(base=BASE_WITH_OPTIONS), ["algorithm.kl.beta=0.04"])
    assert resolved.algorithm.options.model_dump() == {
        "clip_range": 2e-3,  # suggested
        "window": 3,  # the file's
        "kl": {"beta": 0.04, "of": "mean"},  # the override's, and Config's own
    }
    assert resolved.config.algorithm.options() == resolved.algorithm.options.model_dump()
    assert {key: origin.layer for key, origin in resolved.origins.items() if key.startswith("algorithm.")} == {
        "algorithm.name": "config.yaml:4",
        "algorithm.plugin": "core",
        "algorithm.clip_range": "algorithm omni-rl-fake-grpo 0.3",
        "algorithm.window": "config.yaml:5",
        "algorithm.kl.beta": "override",
        "algorithm.kl.of": "algorithm omni-rl-fake-grpo 0.3",
    }


BASE_WITH_OPTIONS = """\
model: {path: pipeline}
reward: fake_bright
algorithm:
  name: fake_grpo
  window: 3
data: {path: prompts.txt}
"""


def test_everything_a_run_needs_is_loaded(written, model, pair, project):
    (project / "mine.py").write_text(LOCAL)
    written(
        """\
        tracker: [fake_board, {name: fake_board, every: 5}]
        validation:
          reward: {name: fake_judge, threshold: 0.7}
        plugins: [mine.py]
        """
    )
    resolved = resolve("config.yaml", ["reward=[mine, {name: fake_judge, weight: 2}]", "rollout.workers=3"])
    assert (resolved.architecture, resolved.model_path) == ("FakePipeline", project / "pipeline")
    assert resolved.model.object.__name__ == "omni_rl_fake_model_code"
    assert (resolved.pair.key, resolved.pair.source) == ("FakePipeline:fake_grpo", "omni-rl-fake-pair 1.0")
    assert resolved.engine.options.workers == 3
    assert (resolved.backend.object.__name__, resolved.launcher.object.__name__) == ("Backend", "local")
    assert [(each.key, each.source) for each in resolved.rewards] == [
        ("mine", f"{project}/mine.py"),
        ("fake_judge", "omni-rl 1.0"),
    ]
    assert [each.options.every for each in resolved.trackers] == [1, 5]
    assert [each.options.threshold for each in resolved.validation_rewards] == [0.7]
    assert resolved.validation_dataset is resolved.dataset
    assert [layer.name for layer in resolved.layers()] == ["model", "algorithm", "pair", "local"]
    assert resolved.layers()[1].plugin.config.clip_range == 2e-3
    assert [each.key for each in resolved.chosen()] == [
        *("FakePipeline", "fake_grpo", "FakePipeline:fake_grpo", "diffusers", "torch", "local", "txt"),
        *("mine", "fake_judge", "fake_board", "fake_board", "fake_judge"),
    ]


def test_validation_takes_the_training_rewards_unless_it_names_others(project):
    resolved = resolve("config.yaml")
    assert resolved.validation_rewards == resolved.rewards


def test_universal_means_no_model_plugin(model, project):
    assert resolve("config.yaml").model.source == "omni-rl-fake-model 1.0"
    assert resolve("config.yaml", ["model.plugin=omni-rl-fake-model"]).model.source == "omni-rl-fake-model 1.0"
    resolved = resolve("config.yaml", ["model.plugin=universal"])
    assert (resolved.model, rollout_call(resolved)) == (None, {})


def test_a_null_seed_is_picked_and_recorded(project):
    picked = [resolve("config.yaml", ["seed=null"]) for _ in range(2)]
    for resolved in picked:
        assert 0 <= resolved.config.seed < 2**31
        assert resolved.origins["seed"] == (resolved.config.seed, "picked")
    assert picked[0].config.seed != picked[1].config.seed
    assert resolve("config.yaml").origins["seed"] == (7, "config.yaml:1")


SUGGESTION = "from omni_rl import hookimpl\n\n\n@hookimpl\ndef defaults():\n    return {}\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            SUGGESTION.format('{"rollout": {"stepz": 1}}'),
            "the defaults of model plugin omni-rl-x 1.0: unknown key 'rollout.stepz'. Did you mean 'steps'?",
        ),
        (
            SUGGESTION.format('{"algorithm": {"clip": 1}}'),
            "the defaults of model plugin omni-rl-x 1.0: unknown key 'algorithm.clip'. Did you mean 'clip_range'?",
        ),
        (
            SUGGESTION.format('{"train": {"lr": "fast"}}'),
            "the defaults of model plugin omni-rl-x 1.0: train.lr takes a number, not 'fast'",
        ),
        (
            SUGGESTION.format('{"rollout": {"call": {"generator": 1}}}'),
            "the defaults of model plugin omni-rl-x 1.0: rollout.call.generator cannot be set\n"
            "  every random draw follows from `seed`; no generator is used",
        ),
        (
            SUGGESTION.format('{"algorithm": {"name": "x"}}'),
            "omni-rl-x 1.0: `omni_rl_x_code.defaults` ({file}:4) sets 'algorithm.name', which only the user may set",
        ),
        (
            SUGGESTION.format("[1]"),
            "omni-rl-x 1.0: `omni_rl_x_code.defaults` ({file}:4) returns [1], not a mapping of sections",
        ),
        (
            SUGGESTION.format("1 / 0"),
            "omni-rl-x 1.0: `omni_rl_x_code.defaults` ({file}:4) raised ZeroDivisionError('division by zero')",
        ),
        (
            "def defaults():\n    return {}\n",
            "omni-rl-x 1.0: `omni_rl_x_code.defaults` ({file}:1) has the name of a hook but no hookimpl marker, so "
            "it would never be called.\n  Put @omni_rl.hookimpl above a plain `def`, or give it another name.",
        ),
    ],
)
def test_a_mistake_in_a_suggestion_is_the_plugins(project, distribution, tmp_path, code, expected):
    distribution("omni-rl-x", {"models": {"FakePipeline": ""}}, code)
    with pytest.raises(PluginError) as error:
        resolve("config.yaml")
    assert str(error.value) == expected.replace("{file}", f"{tmp_path}/site/omni-rl-x/omni_rl_x_code.py")


def test_a_suggestion_of_nothing(project, distribution):
    distribution("omni-rl-x", {"models": {"FakePipeline": ""}}, SUGGESTION.format("None"))
    assert resolve("config.yaml").config.rollout.steps == 30


HEADER = "from pydantic import BaseModel, ConfigDict\n\nfrom omni_rl import hookimpl\n\n\nclass Algo:\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "    @hookimpl\n    def defaults(self):\n        return {}\n",
            "omni-rl-y 1.0: `omni_rl_y_code.Algo.defaults` ({file}:7) is called before an instance exists\n"
            "  put @staticmethod above its @hookimpl and drop self",
        ),
        (
            "    class Config(BaseModel):\n        x: int = 1\n",
            "config.yaml:5:3: algorithm omni-rl-y 1.0: its Config would ignore misspelt keys\n"
            "  write model_config = ConfigDict(extra='forbid') in it",
        ),
        (
            "    class Config(BaseModel, extra='forbid'):\n        plugin: int = 1\n",
            "config.yaml:5:3: algorithm omni-rl-y 1.0: its Config has the key 'plugin', which core uses; rename it\n"
            "  core already uses these keys of the section: name, plugin",
        ),
        (
            "    class Config:\n        pass\n",
            "config.yaml:5:3: algorithm omni-rl-y 1.0: its Config is not a pydantic BaseModel",
        ),
    ],
)
def test_a_plugin_class_that_cannot_be_configured(written, distribution, tmp_path, body, expected):
    distribution("omni-rl-y", {"algorithms": {"fake_algo": ":Algo"}}, HEADER + body)
    written()
    with pytest.raises(PluginError) as error:
        resolve("config.yaml", ["algorithm={name: fake_algo}"])
    found = str(error.value).replace("override 'algorithm={name: fake_algo}'", "config.yaml:5:3")
    assert found == expected.replace("{file}", f"{tmp_path}/site/omni-rl-y/omni_rl_y_code.py")


def test_classmethods_suggest_too_and_configs_may_take_any_key(project, distribution):
    body = (
        "    class Config(BaseModel, extra='allow'):\n        pass\n\n"
        "    @classmethod\n    @hookimpl\n    def defaults(cls, architecture):\n"
        "        return {'rollout': {'call': {'who': cls.__name__ + architecture}}}\n"
    )
    distribution("omni-rl-y", {"algorithms": {"fake_algo": ":Algo"}}, HEADER + body)
    resolved = resolve("config.yaml", ["algorithm.name=fake_algo", "algorithm.anything=1"])
    assert rollout_call(resolved) == {"who": "AlgoFakePipeline"}
    assert resolved.config.algorithm.options() == {"anything": 1}


def test_a_validators_own_words_reach_the_user(project, distribution):
    body = (
        "    class Config(BaseModel, extra='forbid'):\n        low: int = 0\n        high: int\n\n"
        "        @model_validator(mode='after')\n        def ordered(self):\n"
        "            if self.low > self.high:\n                raise ValueError('low is above high')\n"
        "            return self\n"
    )
    code = HEADER.replace("ConfigDict", "model_validator") + body
    distribution("omni-rl-y", {"algorithms": {"fake_algo": ":Algo"}}, code)
    with pytest.raises(UserError, match=r"^the configuration: algorithm: low is above high$"):
        resolve({**GIVEN, "algorithm": {"name": "fake_algo", "low": 3, "high": 2}})
    with pytest.raises(UserError, match=r"algorithm needs the key 'high'\n  for example: high: <a whole number>$"):
        resolve(GIVEN, ["algorithm.name=fake_algo"])


GIVEN = {"model": {"path": "pipeline"}, "reward": "fake_bright", "data": {"path": "prompts.txt"}}


def test_two_claims_are_settled_by_the_configuration(model, project, distribution):
    distribution("omni-rl-other", {"models": {"FakePipeline": ""}})
    with pytest.raises(
        PluginError, match=r"^config.yaml:3:3: model 'FakePipeline' is offered by omni-rl-fake-model 1.0"
    ):
        resolve("config.yaml")
    assert resolve("config.yaml", ["model.plugin=omni-rl-other"]).model.source == "omni-rl-other 1.0"
