"""What metadata says, and what users read when it does not suffice."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from omni_rl.contracts import schema
from omni_rl.errors import PluginError
from omni_rl.plugins import discovery
from omni_rl.plugins.discovery import KINDS, Offer, find, load, offers


def message(call, *arguments) -> str:
    with pytest.raises(PluginError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def known(monkeypatch):
    index = {"models": {"ShelfPipeline": ["omni-rl-shelf"], "FakePipelineTwo": ["omni-rl-fake-good"]}}
    monkeypatch.setattr(discovery, "known_plugins", lambda: index)


def test_an_offer_is_one_entry_point(install):
    install("good")
    assert Offer("algorithms", "fake_algorithm", "fake_good_classes:Algorithm", "omni-rl-fake-good", "1.0") in offers()
    assert find("models", "FakePipeline").source == "omni-rl-fake-good 1.0"


def test_offers_of_one_kind_leave_out_the_others(install):
    install("good")
    assert {offer.kind for offer in offers("models")} == {"models"}


def test_a_path_that_is_listed_twice_counts_once(install):
    install("good", "good")
    assert [offer.distribution for offer in offers("models") if offer.key == "FakePipeline"] == ["omni-rl-fake-good"]


def test_looking_up_imports_no_plugin(install, monkeypatch):
    monkeypatch.delitem(sys.modules, "fake_good", raising=False)
    install("good", "crash", "slow")
    find("models", "FakePipeline")
    find("rewards", "fake_slow")
    assert not {"fake_good", "fake_crash", "fake_slow"} & set(sys.modules)


def test_loading_returns_the_object_behind_the_entry_point(install):
    install("good")
    assert load(find("algorithms", "fake_algorithm")).__name__ == "Algorithm"


def test_a_missing_key_names_the_nearest_and_what_is_installed(install):
    install("good")
    text = message(find, "algorithms", "fake_algoritm")
    assert "No algorithm 'fake_algoritm' is installed. Did you mean 'fake_algorithm'?" in text
    assert "fake_algorithm (omni-rl-fake-good 1.0)" in text
    assert "pip install" not in text


def test_a_missing_key_names_the_package_that_provides_it(known):
    assert "pip install omni-rl-shelf   (offers model 'ShelfPipeline')" in message(find, "models", "ShelfPipeline")


def test_a_misspelt_key_that_is_not_installed_names_its_package(known):
    text = message(find, "models", "ShelfPipelin")
    assert "Did you mean 'ShelfPipeline'?" in text
    assert "pip install omni-rl-shelf" in text


def test_a_key_of_a_newer_version_asks_for_an_upgrade(install, known):
    install("good")
    assert "pip install --upgrade omni-rl-fake-good" in message(find, "models", "FakePipelineTwo")


def test_a_key_claimed_twice_names_both_and_how_to_choose(install):
    install("good", "clash")
    text = message(find, "models", "FakePipeline")
    assert "omni-rl-fake-clash 2.1 and by omni-rl-fake-good 1.0" in text
    assert "`model.plugin: omni-rl-fake-clash`" in text
    assert "OMNI_RL_DISABLE=omni-rl-fake-good" in text


def test_the_configuration_may_choose_between_claims(install):
    install("good", "clash")
    assert find("models", "FakePipeline", "omni_rl.Fake-clash").version == "2.1"


def test_hiding_one_settles_a_clash(install, monkeypatch):
    install("good", "clash")
    monkeypatch.setenv("OMNI_RL_DISABLE", "some-other, Omni_RL_fake_clash")
    assert find("models", "FakePipeline").distribution == "omni-rl-fake-good"


def test_a_chosen_distribution_must_offer_the_key(install):
    install("good")
    text = message(find, "models", "FakePipeline", "omni-rl-elsewhere")
    assert "model.plugin names 'omni-rl-elsewhere', which offers no model 'FakePipeline'" in text
    assert "FakePipeline (omni-rl-fake-good 1.0)" in text


@pytest.mark.parametrize("value", ["*", "omni-rl-fake-good"])
def test_a_hidden_plugin_is_mentioned_when_it_would_have_matched(install, monkeypatch, value):
    install("good")
    monkeypatch.setenv("OMNI_RL_DISABLE", value)
    text = message(find, "models", "FakePipeline")
    assert f"omni-rl-fake-good 1.0 offers 'FakePipeline' but is hidden by OMNI_RL_DISABLE={value}; unset it." in text


def test_everything_but_core_can_be_hidden(monkeypatch):
    monkeypatch.setenv("OMNI_RL_DISABLE", "*,omni-rl")
    assert discovery.is_hidden("omni-rl-fake-good")
    assert not discovery.is_hidden("omni_rl")


def test_a_newer_contract_names_the_version_of_core_to_install(install):
    install("future")
    text = message(find, "models", "FuturePipeline")
    assert "omni-rl-fake-future 1.0 was written for contract 3" in text
    assert "Install a version of omni-rl with contract 3: pip install --upgrade 'omni_rl >=7.0'" in text


def test_a_newer_contract_without_a_requirement_asks_for_the_newest_core(install):
    install("beyond")
    assert "contract 4: pip install --upgrade 'omni-rl'" in message(find, "models", "BeyondPipeline")


def test_an_older_contract_asks_for_a_newer_plugin(install):
    install("past")
    text = message(find, "models", "PastPipeline")
    assert "was written for contract 0" in text
    assert "omni-rl-fake-past with contract 2: pip install --upgrade 'omni-rl-fake-past'" in text


def test_no_contract_names_the_lines_to_add(install):
    install("silent")
    text = message(find, "models", "SilentPipeline")
    assert '[project.entry-points."omni_rl.contract"]' in text
    assert '2 = "fake_silent"' in text


def test_a_broken_import_says_where_and_why_on_one_screen(install):
    fakes = install("broken")
    text = message(load, find("rewards", "fake_broken"))
    assert "omni-rl-fake-broken 1.0 offers reward 'fake_broken' but is broken." in text
    assert "[omni_rl.rewards] fake_broken = fake_broken:Reward" in text
    assert f"at {fakes / 'broken' / 'fake_broken.py'}:3" in text
    assert "ModuleNotFoundError: No module named 'package_that_does_not_exist'" in text
    assert "pip install --upgrade omni-rl-fake-broken" in text
    assert len(text.splitlines()) < 24


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
        ("def f(:\n", "SyntaxError"),
        ("x = 1", "has no attribute 'Reward'"),
        ("raise RuntimeError('line\\n' * 100)", "..."),
    ],
)
def test_any_failure_of_an_import_becomes_a_short_message(tmp_path, monkeypatch, content, expected):
    (tmp_path / "fails_on_import.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fails_on_import", raising=False)
    text = message(load, Offer("rewards", "r", "fails_on_import:Reward", "omni-rl-x", "0.1"))
    assert expected in text
    assert len(text.splitlines()) < 24


def test_a_target_that_does_not_exist_is_named():
    text = message(load, Offer("rewards", "r", "no_such_module_at_all:Reward", "omni-rl-x", "0.1"))
    assert "r = no_such_module_at_all:Reward" in text
    assert "No module named 'no_such_module_at_all'" in text
    assert "\n    at " not in text


def test_every_chooser_is_a_key_of_the_configuration():
    sections = {
        "model": schema.Model,
        "algorithm": schema.Algorithm,
        "rollout": schema.Rollout,
        "reward": schema.RewardEntry,
        "tracker": schema.Tracker,
        "launcher": schema.Launcher,
    }
    for chooser in filter(None, (kind.chooser for kind in KINDS.values())):
        section, _, key = chooser.partition(".")
        assert key in sections[section].model_fields


def test_groups_are_those_of_the_design():
    kinds = ["models", "algorithms", "pairs", "engines", "backends", "launchers", "rewards", "trackers", "datasets"]
    assert set(discovery.GROUPS) == {
        f"omni_rl.{kind}" for kind in [*kinds, "checkpoints", "commands", "conformance", "contract", "plugins"]
    }


def test_the_fakes_are_real_distributions(install):
    install("future")
    assert metadata.version("omni-rl-fake-future") == "1.0"
