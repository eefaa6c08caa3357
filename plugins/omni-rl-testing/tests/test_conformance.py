"""What `omni-rl conformance` says of packages as pip installs them: modules and metadata, and no tests."""

from __future__ import annotations

import sys
import textwrap

import pytest

from omni_rl.errors import ConfigError, ModelError, PluginError, UserError
from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.conformance.running import IMPORTS, NOT_MADE, SUITE, run
from omni_rl_testing.conformance.subjects import subjects
from omni_rl_testing.engine import EngineContract
from omni_rl_testing.launcher import LauncherContract
from omni_rl_testing.reward import RewardContract
from omni_rl_tiny import pipelines

REWARD = """
from pydantic import BaseModel, ConfigDict, Field

class Mean:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        factor: float = Field({default}, description="multiplies the mean")

    scope = "sample"

    def __init__(self, config):
        self.config = config

    def score(self, batch):
        return [self.config.factor * float(each["image"].data.mean()){extra} for i, each in enumerate(batch.media)]
"""
SOUND = REWARD.format(default="1.0", extra="")
NEEDY = REWARD.format(default="...", extra="")
BY_PLACE = REWARD.format(default="1.0", extra=" + i")
ALGORITHM = """
from omni_rl import hookimpl
from omni_rl_testing.toy import PolicyGradient

class Plain(PolicyGradient):
    def __init__(self):
        super().__init__()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(code, rewards={"mean": "Mean"})``: the distribution omni-rl-other, installed; its module is other."""

    def _install(code, **groups):
        monkeypatch.delitem(sys.modules, "other", raising=False)
        (tmp_path / "other.py").write_text(textwrap.dedent(code))
        metadata = tmp_path / "omni_rl_other-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: omni-rl-other\nVersion: 1.0\n")
        offered = {**groups, "contract": {"2": ""}}
        lines = [
            line
            for group, entries in offered.items()
            for line in (
                f"[omni_rl.{group}]",
                *(f"{key} = other{name and ':' + name}" for key, name in entries.items()),
            )
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)

    return _install


def checked(**selection):
    found = []
    run(subjects("omni-rl-other", **selection), found.append)
    return {check.name: check for check in found}


def checks_of(contract):
    return {name.removeprefix("test_").replace("_", " ") for name in dir(contract) if name.startswith("test_")}


def verdicts(checks):
    return {check.verdict for check in checks.values()}


def test_a_sound_reward_passes_every_check_of_its_suite(install):
    install(SOUND, rewards={"mean": "Mean"})
    checks = checked()
    assert checks.keys() == checks_of(RewardContract) | {IMPORTS}
    assert verdicts(checks) == {"ok"}


def test_a_faulty_reward_is_told_what_is_wrong_and_what_to_mend(install):
    install(BY_PLACE, rewards={"mean": "Mean"})
    failed = {name: check for name, check in checked().items() if check.verdict != "ok"}
    assert failed.keys() == {"order does not matter", "the rest of the batch does not matter"}
    order = failed["order does not matter"]
    assert "row: (found, expected)" in order.reason
    assert "assert {0: (" in order.reason
    assert "Fix ``score``" in order.purpose
    assert "self.assert_same" in order.trace


@pytest.mark.ci
def test_an_algorithm_runs_on_the_toy(install):
    install(ALGORITHM, algorithms={"plain": "Plain"})
    checks = checked()
    assert {name.partition(" (")[0] for name in checks} == checks_of(AlgorithmContract) | {IMPORTS}
    skipped = {"the first update is on policy", "preferences steer the gradient"}
    assert {name for name, check in checks.items() if check.verdict != "ok"} == skipped


def test_an_engine_runs_on_the_toy(install):
    install("from omni_rl.sampling.embedded import EmbeddedEngine as Same", engines={"same": "Same"})
    checks = checked()
    assert {name.partition(" (")[0] for name in checks} == checks_of(EngineContract) | {IMPORTS}
    assert verdicts(checks) == {"ok"}


def test_what_cannot_be_built_is_told_apart_from_what_fails(install):
    install(SOUND.replace("self.config = config", "raise RuntimeError('no license')"), rewards={"mean": "Mean"})
    checks = checked()
    assert checks.pop(IMPORTS).verdict == "ok"
    assert {(check.verdict, check.reason, check.purpose) for check in checks.values()} == {
        ("FAILED", "RuntimeError: no license", NOT_MADE)
    }


def test_what_cannot_be_imported_fails_with_its_reason(install):
    install("import a_module_that_is_nowhere", rewards={"mean": "Mean"})
    (check,) = checked().values()
    assert (check.name, check.verdict) == (IMPORTS, "FAILED")
    assert "a_module_that_is_nowhere" in check.reason


def test_a_hook_that_is_none_is_named(install):
    install(ALGORITHM + "\n    @hookimpl\n    def compute_los(self): ...", algorithms={"plain": "Plain"})
    (check,) = checked().values()
    assert "Did you mean 'compute_loss'" in check.reason


def test_what_has_no_suite_is_imported_and_says_so(install):
    install("def read(path): ...", datasets={"csv": "read"})
    checks = checked()
    assert checks[IMPORTS].verdict == "ok"
    assert (checks[SUITE].verdict, checks[SUITE].unproven) == ("skipped", False)


# --------------------------------------------------------------------------------------------------- options and inputs


def test_an_option_that_is_needed_is_asked_for_and_taken(install):
    install(NEEDY, rewards={"mean": "Mean"})
    suite = checked()[SUITE]
    assert suite.unproven
    assert "needs the key 'factor'" in suite.reason
    assert "omni-rl conformance omni-rl-other reward.OPTION=VALUE" in suite.reason
    assert verdicts(checked(overrides=["reward.factor=2.0"])) == {"ok"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("reward.facter=2", r"Did you mean 'factor'"),
        ("reward.factor=fast", "a number"),
        ("reward.weight=2", "the suite itself sets"),
        ("algorithm.lr=2", r"is not an option of a plugin of omni-rl-other\n.*reward.OPTION=VALUE"),
        ("rollout.call.height=2", "is not an option"),
        ("factor=2", "is not an option"),
    ],
)
def test_an_override_that_no_suite_looks_at_is_refused(install, override, says):
    install(SOUND, rewards={"mean": "Mean"})
    with pytest.raises(ConfigError, match=says):
        subjects("omni-rl-other", overrides=[override])


def test_a_model_without_a_pipeline_is_not_proven(install):
    install("", models={"UnheardPipeline": ""})
    suite = checked()[SUITE]
    assert suite.unproven
    assert "--model FOLDER" in suite.reason


@pytest.mark.ci
def test_a_model_runs_on_the_folder_of_its_architecture(install, tiny_folder):
    install("", models={"FluxPipeline": ""})
    checks = checked(models=[str(tiny_folder("FluxPipeline"))])
    assert "FAILED" not in verdicts(checks)
    assert checks["without noise samples are the pipelines own"].verdict == "ok"


@pytest.mark.ci
def test_a_model_that_needs_a_picture_gets_one(install, tmp_path_factory):
    install("", models={"WanImageToVideoPipeline": ""})
    folder = pipelines.build("WanImageToVideoPipeline", tmp_path_factory.mktemp("image-to-video"))
    checks = checked(models=[str(folder)])
    assert "FAILED" not in verdicts(checks)
    assert checks["replay calls no encoder"].verdict == "ok"


@pytest.mark.full
def test_a_model_runs_on_the_shipped_pipeline_of_its_architecture(install, tmp_path, monkeypatch):
    """With the arguments that lie beside it: LTX-2 has no thirtieth block to perturb there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install("", models={"LTX2Pipeline": ""})
    checks = checked()
    assert "FAILED" not in verdicts(checks)
    assert checks["without noise samples are the pipelines own"].verdict == "ok"


def test_a_pipeline_of_another_architecture_is_refused(install, tmp_path):
    install("", models={"FluxPipeline": ""})
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    with pytest.raises(ModelError, match="is a SanaPipeline, but the tested plugins are the model FluxPipeline"):
        subjects("omni-rl-other", models=[str(tmp_path)])


DECLARED = """
import pytest
from omni_rl.rewards.builtin import Brightness, JpegCompressibility
from omni_rl_testing.offered import signs
from omni_rl_testing.reward import RewardContract

class Suite(RewardContract):
    @pytest.fixture
    def reward(self):
        return Brightness(Brightness.Config())

    @pytest.fixture
    def samples(self):
        return signs()

    def test_of_its_own(self, reward):
        assert isinstance(reward, Brightness)
"""


def test_a_distribution_may_bring_its_fixtures(install):
    install(DECLARED, rewards={"bright": "Brightness"}, conformance={"bright": "Suite"})
    checks = checked()
    assert checks.keys() == checks_of(RewardContract) | {IMPORTS, "of its own"}
    assert verdicts(checks) == {"ok"}


def test_an_override_does_not_pass_by_fixtures_of_its_own(install):
    install(DECLARED, rewards={"bright": "JpegCompressibility"}, conformance={"bright": "Suite"})
    with pytest.raises(ConfigError, match="has its own fixtures for bright"):
        subjects("omni-rl-other", overrides=["reward.quality=30"])


@pytest.mark.parametrize(
    ("name", "says"), [("Brightness", "inherits omni_rl_testing.reward.RewardContract"), ("No", "No")]
)
def test_fixtures_that_are_no_suite_are_refused(install, name, says):
    install(DECLARED, rewards={"bright": "Brightness"}, conformance={"bright": name})
    suite = checked()[SUITE]
    assert suite.verdict == "FAILED"
    assert says in suite.reason


# ------------------------------------------------------------------------------------------------------------ selection


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"kinds": ["rewards"]}, "Did you mean 'reward'"),
        ({"kinds": ["engine"]}, r"offers no such engine\n  it offers the reward mean"),
        ({"keys": ["men"]}, "Did you mean 'mean'"),
        ({"models": ["nowhere"]}, "neither an installed checkpoint nor a folder"),
    ],
)
def test_what_is_not_offered_cannot_be_chosen(install, selection, says):
    install(SOUND, rewards={"mean": "Mean"})
    with pytest.raises(UserError, match=says):
        subjects("omni-rl-other", **selection)


@pytest.mark.parametrize(
    ("name", "says"),
    [("omni-rl-othr", "Did you mean 'omni-rl-other'"), ("omni-rl-vllm-omni", "is not installed\n  pip install")],
)
def test_what_is_not_installed_cannot_be_tested(install, monkeypatch, name, says):
    install(SOUND, rewards={"mean": "Mean"})
    known = {"engines": {"vllm-omni": ["omni-rl-vllm-omni"]}}
    monkeypatch.setattr("omni_rl_testing.conformance.subjects.known_plugins", lambda: known)
    with pytest.raises(PluginError, match=says):
        subjects(name)


def test_a_hidden_distribution_is_not_tested(install, monkeypatch):
    install(SOUND, rewards={"mean": "Mean"})
    monkeypatch.setenv("OMNI_RL_DISABLE", "omni-rl-other")
    with pytest.raises(PluginError, match="hidden by OMNI_RL_DISABLE"):
        subjects("omni_rl.Other")


def test_without_pytest(install, monkeypatch):
    install(SOUND, rewards={"mean": "Mean"})
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(UserError, match=r"pip install 'omni-rl\[testing\]'"):
        run([], print)


def test_the_users_own_pytest_settings_do_not_matter(install, monkeypatch, tmp_path):
    install(SOUND, rewards={"mean": "Mean"})
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    assert verdicts(checked()) == {"ok"}


def test_a_launcher_has_a_suite(install):
    install("from omni_rl.run.launchers import local as here", launchers={"here": "here"})
    checks = checked()
    assert {name.partition(" (")[0] for name in checks} == checks_of(LauncherContract) | {IMPORTS}
    assert verdicts(checks) == {"ok"}
