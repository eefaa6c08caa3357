"""Where the files that a configuration names are looked for."""

from __future__ import annotations

import os

import pytest
from huggingface_hub import constants

from omni_rl.config.resolve import resolve
from omni_rl.errors import DataError, ModelError, PluginError

CHECKPOINT = """
import json
from pathlib import Path


def make():
    folder = Path(__file__).parent / "signs"
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SignsPipeline"}))
    (folder / "train.txt").write_text("a sign")
    return folder


def family(name):
    from omni_rl.errors import ModelError

    if name != "signs":
        raise ModelError(f"no {name!r} in this family", "fake-family/signs")
    return make()


def broken():
    raise RuntimeError("out of paint")


def nowhere():
    return "/nowhere/at/all"
"""


@pytest.fixture
def checkpoint(distribution, tmp_path):
    """Shipped checkpoints; answers the folder of the good one."""
    keys = {"fake-signs": ":make", "fake-broken": ":broken", "fake-nowhere": ":nowhere", "fake-family": ":family"}
    distribution("omni-rl-fake-signs", {"checkpoints": keys}, CHECKPOINT)
    return tmp_path / "site" / "omni-rl-fake-signs" / "signs"


def test_a_relative_path_is_relative_to_the_configuration(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = resolve("project/config.yaml")
    assert resolved.model_path == project / "pipeline"
    assert resolved.config.model.path == str(project / "pipeline")
    assert resolved.config.data.path == str(project / "prompts.txt")
    assert resolved.origins["data.path"] == (str(project / "prompts.txt"), "project/config.yaml:8")


def test_what_is_not_there_is_looked_for_in_the_working_directory(project, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (project / "prompts.txt").rename(tmp_path / "work" / "prompts.txt")
    monkeypatch.chdir(tmp_path / "work")
    assert resolve("../project/config.yaml").config.data.path == str(tmp_path / "work" / "prompts.txt")


def test_an_override_is_typed_in_the_working_directory(project, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("another sign")
    monkeypatch.chdir(tmp_path)
    assert resolve("project/config.yaml").config.data.path == str(project / "prompts.txt")
    overridden = resolve("project/config.yaml", ["data.path=prompts.txt"])
    assert overridden.config.data.path == str(tmp_path / "prompts.txt")


def test_a_shipped_checkpoint_keeps_its_name_and_offers_its_files(checkpoint, project):
    resolved = resolve("config.yaml", ["model.path=fake-signs", "data.path=fake-signs/train.txt"])
    assert (resolved.architecture, resolved.model_path) == ("SignsPipeline", checkpoint)
    assert resolved.config.model.path == "fake-signs"
    assert resolved.config.data.path == str(checkpoint / "train.txt")


def test_a_family_of_checkpoints_is_asked_for_the_name_behind_the_slash(checkpoint, project):
    resolved = resolve("config.yaml", ["model.path=fake-family/signs"])
    assert (resolved.architecture, resolved.model_path) == ("SignsPipeline", checkpoint)
    for name in ("fake-family/sings", "fake-family"):
        with pytest.raises(ModelError, match="in this family\n  fake-family/signs"):
            resolve("config.yaml", [f"model.path={name}"])


def test_a_missing_file_of_a_checkpoint(checkpoint, project):
    with pytest.raises(DataError) as error:
        resolve("config.yaml", ["data.path=fake-signs/tain.txt"])
    assert str(error.value) == (
        "override 'data.path=fake-signs/tain.txt': there is no prompt file 'fake-signs/tain.txt' "
        "in the checkpoint 'fake-signs'. Did you mean 'train.txt'?"
    )


def test_the_nearest_checkpoint_is_named(checkpoint, project):
    with pytest.raises(ModelError) as error:
        resolve("config.yaml", ["model.path=fake-sign"])
    assert str(error.value) == (
        "override 'model.path=fake-sign': model.path 'fake-sign' is neither an installed checkpoint nor a folder. "
        "Did you mean 'fake-signs'?\n  installed checkpoints: fake-broken, fake-family, fake-nowhere, fake-signs"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "fake-broken",
            "omni-rl-fake-signs 1.0 cannot provide its checkpoint 'fake-broken': RuntimeError('out of paint')",
        ),
        (
            "fake-nowhere",
            "omni-rl-fake-signs 1.0 gives /nowhere/at/all as its checkpoint 'fake-nowhere', "
            "but that folder does not exist",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_made(checkpoint, project, name, expected):
    with pytest.raises(PluginError) as error:
        resolve("config.yaml", [f"model.path={name}"])
    assert str(error.value) == f"override 'model.path={name}': {expected}"


def test_paths_among_a_plugins_options_are_relative_to_the_configuration(written, project, tmp_path, monkeypatch):
    (project / "judge.txt").write_text("be kind")
    written("validation: {reward: {name: fake_judge, file: judge.txt}}\n")
    monkeypatch.chdir(tmp_path)
    resolved = resolve("project/config.yaml")
    assert resolved.validation_rewards[0].options.file == project / "judge.txt"
    assert resolved.config.validation.reward[0].options()["file"] == str(project / "judge.txt")


def test_local_plugins_are_relative_to_the_configuration(written, project, tmp_path, monkeypatch):
    (project / "mine.py").write_text("OMNI_RL = {'rewards': {'mine': lambda: None}}\n")
    written("plugins: [./mine.py]\n")
    monkeypatch.chdir(tmp_path)
    resolved = resolve("project/config.yaml", ["reward=mine"])
    assert resolved.config.plugins == [str(project / "mine.py")]
    assert resolved.rewards[0].source == str(project / "mine.py")


def test_a_local_plugin_that_fails_does_not_hide_other_mistakes(written, project):
    (project / "mine.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(Exception, match=r"^2 problems in config.yaml:\n") as error:
        resolve(written("plugins: [./mine.py]\ntrain: {lrr: 1}\n"))
    assert f"config.yaml:9:1: {project}/mine.py cannot be imported: ModuleNotFoundError" in str(error.value)
    assert f"  at {project}/mine.py:1\n" in str(error.value)
    assert "config.yaml:10:9: unknown key 'train.lrr'. Did you mean 'lr'?" in str(error.value)


def test_a_folder_inside_a_pipeline_is_told_from_the_pipeline(project):
    os.mkdir(project / "pipeline" / "transformer")
    with pytest.raises(ModelError, match=f"\n  the parent folder is a pipeline: {project}/pipeline$"):
        resolve("config.yaml", ["model.path=pipeline/transformer"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and a hub that nobody can reach."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_that_is_cached_needs_no_network(project, hub):
    snapshot = hub / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"_class_name": "HubPipeline"}')
    (hub / "models--some--model" / "refs").mkdir()
    (hub / "models--some--model" / "refs" / "main").write_text("0" * 40)
    resolved = resolve("config.yaml", ["model={path: some/model, hub: true}"])
    assert (resolved.architecture, resolved.model_path) == ("HubPipeline", snapshot)
    assert resolved.config.model.path == "some/model"


def test_a_hub_id_offline_and_not_cached(project, hub):
    with pytest.raises(ModelError) as error:
        resolve("config.yaml", ["model.path=some/model", "model.hub=true"])
    assert str(error.value) == (
        "override 'model.path=some/model': model.path 'some/model' is not in the hub cache and HF_HUB_OFFLINE is set\n"
        "  unset HF_HUB_OFFLINE to download it, or give the folder of a copy"
    )


@pytest.mark.full  # the hub's client tries again for half a minute
def test_a_hub_that_cannot_be_reached(project, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(ModelError, match=r"model\.path 'some/model' cannot be downloaded from the hub: "):
        resolve("config.yaml", ["model.path=some/model", "model.hub=true"])
