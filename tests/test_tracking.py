"""Runs in a real SQLite store: how it is made, what a run holds while it trains, and how it ends."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tracked import wait_until

from pipeline import tracking, trained
from pipeline.config import to_dict
from pipeline.errors import SettingsError
from pipeline.lineage import inputs_of
from pipeline.tracking.naming import run_name
from pipeline.tracking.store import check_uri
from pipeline.trained import Trained

ROOT = Path(__file__).resolve().parents[1]
OPEN_TOGETHER = """
import pathlib, sys, time
import mlflow.store.tracking.sqlalchemy_store
from pipeline import tracking
from pipeline.config import load_params

settings = load_params()
pathlib.Path(sys.argv[1]).touch()
while len(list(pathlib.Path().glob("*.ready"))) < int(sys.argv[2]):
    time.sleep(0.001)
print(tracking.open_store(settings))
"""

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture
def settings(settings_of, new_store, tmp_path):
    """All settings, with a store of one test's own."""
    return settings_of("net=scratch", f"tracking.uri={new_store(tmp_path)}")


@pytest.fixture
def inputs():
    rows = {f"{kind}_{part}": np.zeros((4, 2)) for part in ("train", "val", "test") for kind in "XY"}
    return inputs_of("synthetic", rows, "d" * 32)


@pytest.fixture
def start(settings, inputs):
    """Return a function that starts a run of the from-scratch net."""
    return lambda *overrides: tracking.start_run(settings, "scratch", inputs, overrides)


@pytest.fixture
def client(settings):
    import mlflow

    return mlflow.MlflowClient(settings.tracking.uri)


def net(weight: float = 0.0) -> Trained:
    weights = {"W1": np.full((2, 2), weight), "b1": np.zeros((2, 1)), "W2": np.zeros((1, 2)), "b2": np.zeros((1, 1))}
    return Trained("scratch", "synthetic", ("tanh", "sigmoid"), weights, {"loss": [0.7], "accuracy": [0.5]}, "net\n")


def log_trained(run, result, settings, folder):
    trained.save(result, folder)
    run.log_trained(result, folder, settings, example=np.zeros((2, 2)))


def test_params_of_a_run_are_the_settings_that_it_uses(settings):
    params = tracking.run_params(settings, "scratch")
    assert params["net"] == "scratch"
    assert params["n_hidden"] == settings.scratch.n_hidden
    assert params["synthetic.n_train"] == settings.synthetic.n_train
    assert params["preprocess.validation_fraction"] == settings.preprocess.validation_fraction
    assert params["seed"] == 0
    foreign = ("mnist", "keras", "tracking", "units", "objective")
    assert [key for key in params if key.startswith(foreign)] == []


def test_params_of_a_deep_net_name_its_layers_as_one_text(settings):
    deep = replace(settings, keras=replace(settings.keras, units=(512, 256)))
    params = tracking.run_params(deep, "keras")
    assert params["units"] == "512,256"
    assert params["mnist.source"] == "auto"
    assert "synthetic.n_train" not in params
    unused = {"mnist.max_csv_bytes", "mnist.train_csv", "mnist.test_csv", "mnist.label_column", "early_stopping"}
    unused |= {"steps_per_execution"}
    assert not unused & set(params)  # what changes no result; and null says nothing


def test_the_store_is_the_settings_then_the_environments_then_the_projects(settings_of, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it where a test has opened a store
    settings = settings_of()
    assert tracking.tracking_uri(settings) == f"sqlite:///{ROOT / 'mlflow.db'}"
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert tracking.tracking_uri(settings) == "sqlite:////elsewhere/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////env.db")
    assert tracking.tracking_uri(settings) == "sqlite:////env.db"
    assert tracking.tracking_uri(settings_of("tracking.uri=sqlite:////set.db")) == "sqlite:////set.db"


def test_with_tracking_server_only_a_server_will_do(settings_of, monkeypatch):
    settings = settings_of("tracking=server")
    for uri in ("", "sqlite:////env.db", "postgresql://ann:secret@db/runs"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(SettingsError, match=r"^tracking\.uri: with tracking=server it, or MLFLOW_") as caught:
            tracking.tracking_uri(settings)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@host")
    assert tracking.tracking_uri(settings) == "https://ann:secret@host"
    assert tracking.tracking_uri(settings_of("tracking=server", "tracking.uri=http://host")) == "http://host"


def test_processes_that_make_one_store_at_once_share_one_experiment(settings_of, environment, tmp_path):
    settings = settings_of(f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(to_dict(settings)))
    env = environment | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_TOGETHER, f"{number}.ready", "2"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert len({out for out, _ in said}) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        names = connection.execute("SELECT name FROM experiments").fetchall()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    assert names.count(("neural-nets",)) == 1
    assert mode == "wal"  # readers do not wait for a writer


def test_artifacts_stand_beside_the_store(settings, client, tmp_path):
    experiment = client.get_experiment(tracking.open_store(settings))
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_an_experiment_is_made_once_and_found_again(settings):
    first = tracking.open_store(settings)
    assert tracking.open_store(settings) == first
    other = replace(settings, tracking=replace(settings.tracking, experiment="others"))
    assert tracking.open_store(other) != first


def test_epochs_are_visible_while_the_run_goes_on(start, client):
    with start() as run:
        for epoch in range(3):
            run.on_epoch_end(epoch, {"loss": 1 / (epoch + 1), "val_loss": 2.0})
        points = wait_until(lambda: run.run_id and client.get_metric_history(run.run_id, "loss"))
        assert client.get_run(run.run_id).info.status == "RUNNING"
        assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_run_in_a_copy_of_the_project_is_waited_for_as_the_copy_is_removed(start, client, monkeypatch, tmp_path):
    with start() as run:
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        run.leave()
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_that_ends_is_finished_with_its_last_epochs(start, client):
    with start() as run:
        for epoch in range(700):  # more points than MLflow takes in one call
            run.on_epoch_end(epoch, {"loss": float(epoch), "accuracy": 0.5})
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.end_time is not None
    assert len(client.get_metric_history(run.run_id, "loss")) == 700
    assert found.data.metrics == {"loss": 699.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (ArithmeticError("the loss is nan"), "FAILED", "ArithmeticError: the loss is nan"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt: "),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
    ],
)
def test_a_run_that_breaks_off_keeps_its_history_and_its_error(start, client, error, status, tag):
    with pytest.raises(type(error)), start() as run:
        run.on_epoch_end(0, {"loss": 0.5})
        raise error
    found = client.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags["error"] == tag
    assert [point.value for point in client.get_metric_history(run.run_id, "loss")] == [0.5]


def test_a_run_does_not_go_on_with_one_that_the_environment_names(start, client, monkeypatch):
    with start() as first:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    with start() as second:
        pass
    assert second.run_id != first.run_id


def test_a_runs_name_says_net_dataset_and_what_was_overridden(start, client):
    with start("scratch.n_hidden=3") as run:
        pass
    name = client.get_run(run.run_id).info.run_name
    assert name.startswith("scratch synthetic")
    assert "n_hidden=3" in name


def test_a_runs_name_tells_groups_and_shows_no_folder(settings):
    given = [
        "net=keras",
        "keras=deep",
        "mnist=digits",
        "keras.epochs=1",
        "mnist.train_csv=/home/ann/a.csv",
        "scratch=x",
    ]
    name = run_name(replace(settings, net="keras"), "keras", given)
    assert name == "keras mnist keras=deep mnist=digits epochs=1 mnist.train_csv=a.csv"


def test_own_csvs_are_their_own_source(settings):
    own = replace(settings, mnist=replace(settings.mnist, train_csv="a.csv", test_csv="b.csv"))
    assert tracking.run_params(own, "keras")["mnist.source"] == "csv"


def test_a_trained_net_is_logged_whole(start, client, settings, tmp_path):
    with start() as run:
        log_trained(run, net(0.25), settings, tmp_path / "net")
    found = client.get_run(run.run_id)
    assert found.data.tags["weights_sha256"] == net(0.25).weights_sha256
    logged = {artifact.path for artifact in client.list_artifacts(run.run_id)}
    assert {"weights.npz", "history.csv", "net.json", "summary.txt", "settings.yaml"} <= logged
    path = Path(client.download_artifacts(run.run_id, "weights.npz", str(tmp_path)))
    np.testing.assert_array_equal(np.load(path)["W1"], np.full((2, 2), 0.25))
    settings_file = Path(client.download_artifacts(run.run_id, "settings.yaml", str(tmp_path)))
    without_address = replace(settings, tracking=replace(settings.tracking, uri=None))  # it may hold a password
    assert yaml.safe_load(settings_file.read_text()) == to_dict(without_address)


def test_a_run_is_found_by_the_digest_of_its_weights(start, settings, tmp_path):
    runs = []
    for weight in (1.0, 2.0, 2.0):
        with start() as run:
            log_trained(run, net(weight), settings, tmp_path / f"{len(runs)}")
        runs.append(run.run_id)
    assert tracking.find_run(settings, net(1.0).weights_sha256) == runs[0]
    assert tracking.find_run(settings, net(2.0).weights_sha256) == runs[2]  # the newest
    assert tracking.find_run(settings, net(3.0).weights_sha256) is None


def test_a_run_is_looked_for_in_the_settings_store_whatever_mlflow_had_open(start, settings, new_store, tmp_path):
    import mlflow

    with start() as run:
        log_trained(run, net(1.0), settings, tmp_path / "net")
    (tmp_path / "other").mkdir()
    mlflow.set_tracking_uri(new_store(tmp_path / "other"))
    assert tracking.find_run(settings, net(1.0).weights_sha256) == run.run_id


def test_a_report_joins_the_run_that_made_the_weights_after_it_has_ended(start, client, settings, tmp_path):
    with start() as run:
        run.on_epoch_end(0, {"loss": 0.5})
        log_trained(run, net(4.0), settings, tmp_path / "net")
    figures, images, per_class = {"test_accuracy": 0.75}, {"roc_curve": b"png"}, {"0": {"test_f1": 0.5}}
    assert tracking.add_report(settings, net(4.0).weights_sha256, figures, images, per_class) == run.run_id
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 0.5, "test_accuracy": 0.75}
    assert [artifact.path for artifact in client.list_artifacts(run.run_id, "pictures")] == ["pictures/roc_curve.png"]
    file = Path(client.download_artifacts(run.run_id, "per_class.json", str(tmp_path)))
    assert json.loads(file.read_text()) == per_class


def test_a_report_joins_a_run_of_which_this_disk_has_no_record(start, client, settings, tmp_path, monkeypatch):
    with start() as run:
        log_trained(run, net(5.0), settings, tmp_path / "net")
    monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path / "none"))
    figures = {"test_accuracy": 0.75}
    assert tracking.add_report(settings, net(5.0).weights_sha256, figures, {"a": b"png"}) == run.run_id
    assert client.get_run(run.run_id).data.metrics == figures
    assert tracking.add_report(settings, net(6.0).weights_sha256, figures, {}) is None


def test_a_look_at_a_store_leaves_the_locks_of_its_connections(settings, client):
    """Otherwise the next process to close it would remove the write-ahead log under this one's connections."""
    check_uri(settings.tracking.uri)
    script = f"import mlflow; mlflow.MlflowClient({settings.tracking.uri!r}).create_experiment('made elsewhere')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert client.get_experiment_by_name("made elsewhere")
