from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tracked_run import MEAN, STDERR, drive, hooks_of, row, run_in

from omni_rl.errors import PluginError
from omni_rl_trackers.mlflow import URI, MLflow

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"),
    pytest.mark.ci,  # creating the database takes seconds
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of SQLAlchemy, at MLflow
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
]


def client_of(uri: str) -> object:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def history(client: object, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def sheets(artifacts: Path) -> dict[int, np.ndarray]:
    """The logged images by step, which is a part of their names; the signs around it vary between versions."""
    files = {re.search(r"step.(\d+).timestamp", file.name): file for file in artifacts.glob("images/*.png")}
    return {int(step[1]): np.asarray(Image.open(file)) for step, file in files.items() if step}


def test_what_was_logged_reads_back_and_a_resumed_run_is_the_same_run(tmp_path):
    run = run_in(tmp_path / "run")
    tracker = MLflow(MLflow.Config(experiment="signs", images=3))
    drive(tracker, run, 1, 4)
    state = json.loads(json.dumps(tracker.state()))

    client, run_id = client_of(f"sqlite:///{run.directory}/mlflow.db"), state["mlflow"]
    kept = client.get_run(run_id)
    assert (kept.info.run_name, kept.info.status) == ("run", "FINISHED")
    assert client.get_experiment(kept.info.experiment_id).name == "signs"
    assert kept.data.params["algorithm.name"] == "flow_grpo"
    assert kept.data.params["train.iterations"] == str(run.config.train.iterations)
    assert json.loads(kept.data.params["reward"]) == run.config.model_dump(mode="json")["reward"]
    assert history(client, run_id, "reward/mean") == [(i, pytest.approx(i / 7)) for i in range(1, 5)]
    assert history(client, run_id, "actor/ratio_mean") == [(i, pytest.approx(1 + i * 1e-5)) for i in range(1, 5)]
    assert history(client, run_id, "val/reward/mean") == [(0, MEAN), (4, MEAN)]
    assert history(client, run_id, "val/reward/stderr") == [(0, STDERR), (4, STDERR)]
    assert history(client, run_id, "val/reward/ocr/mean") == [(4, 0.5)]
    assert "iteration" not in kept.data.metrics
    shown = sheets(run.directory / "mlflow" / run_id / "artifacts")
    assert sorted(shown) == [0, 4]
    assert shown[0].shape[1] > 3 * 128  # three of 32 x 16 pixels, four times enlarged, side by side
    text = Path(client.download_artifacts(run_id, "config.yaml", str(tmp_path))).read_text()
    assert yaml.safe_load(text) == run.config.model_dump(mode="json")

    resumed = MLflow(MLflow.Config(experiment="signs"))
    resumed.restore(state)
    run.config.train.iterations += 100  # a parameter that MLflow would not let us change
    hooks = hooks_of(resumed)
    hooks.on_run_start(run=run)
    assert client.get_run(run_id).info.status == "RUNNING"
    for iteration in (4, 5):
        hooks.on_iteration_end(run=run, row=row(iteration))
    hooks.on_run_end(run=run, error=RuntimeError("engine lost"))
    assert resumed.state() == state
    assert client.get_run(run_id).info.status == "FAILED"
    assert history(client, run_id, "reward/mean")[-1] == (5, pytest.approx(5 / 7))
    assert len(client.search_runs([kept.info.experiment_id])) == 1
    text = Path(client.download_artifacts(run_id, "config.yaml", str(tmp_path / "run"))).read_text()
    assert yaml.safe_load(text)["train"]["iterations"] == run.config.train.iterations


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database that several runs share."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/shared.db"
    client_of(uri).create_experiment("signs", artifact_location=(folder / "files").as_uri())
    return uri


@pytest.mark.parametrize("by_environment", [False, True])
def test_runs_share_the_store_that_is_named(store, by_environment, tmp_path, monkeypatch):
    if by_environment:
        monkeypatch.setenv(URI, store)
    given = {} if by_environment else {"tracking_uri": store}
    ids = []
    for name in ("first", "second"):
        run = run_in(tmp_path / name)
        tracker = MLflow(MLflow.Config(experiment="signs", images=0, **given))
        drive(tracker, run, 2, 3)
        ids.append(tracker.state()["mlflow"])
        assert sorted(entry.name for entry in run.directory.iterdir()) == ["checkpoints", "images"]
    client = client_of(store)
    assert [client.get_run(each).info.run_name for each in ids] == ["first", "second"]
    assert len({client.get_run(each).info.experiment_id for each in ids}) == 1


def test_what_mlflow_cannot_store_as_it_is_is_still_stored(store, tmp_path):
    tracker = MLflow(MLflow.Config(experiment="signs", tracking_uri=store))
    tracker.open(tmp_path, {"model": {"path": "x" * 7000}, **{f"option {i}?": None for i in range(120)}})
    tracker.log({"reward/a@b=c": 0.5, "not/finite": float("nan")}, 3)
    tracker.close()
    client, run_id = client_of(store), tracker.state()["mlflow"]
    assert history(client, run_id, "reward/a_b_c") == [(3, 0.5)]
    assert np.isnan(history(client, run_id, "not/finite")[0][1])
    params = client.get_run(run_id).data.params
    assert params["option 119_"] == "null"
    assert set(params["model.path"]) >= {"x"}


def test_a_resumed_run_is_refused_in_a_store_that_does_not_hold_it(store, tmp_path):
    tracker = MLflow(MLflow.Config(tracking_uri=store))
    tracker.restore({"mlflow": "0" * 32})
    with pytest.raises(PluginError, match=r"tracker 'mlflow' cannot track this run: .*0000 not found") as caught:
        hooks_of(tracker).on_run_start(run=run_in(tmp_path / "run"))
    assert "needs the store in which it was started" in caught.value.hint
    tracker.close(failed=True)


def test_a_store_that_cannot_be_opened_is_refused(tmp_path):
    tracker = MLflow(MLflow.Config(tracking_uri="carrier-pigeon://here"))
    with pytest.raises(PluginError, match="tracker 'mlflow' cannot track this run: ") as caught:
        tracker.open(tmp_path, {})
    assert "tracking_uri" in caught.value.hint
