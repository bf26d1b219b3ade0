"""Runs read back as pandas tables, from a real store: types, order, what is missing, and which run is meant."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tracked import CODE, DATA_MD5, fail, track

from pipeline.config import to_dict
from pipeline.errors import DataError, SettingsError
from pipeline.tracking.table import FIRST, find_experiment, history, own_settings, runs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture(scope="module")
def settings(own_tracking, settings_of, new_store, tmp_path_factory):
    """All settings, with a store of this module's own."""
    uri = new_store(tmp_path_factory.mktemp("table"))
    return settings_of("net=scratch", "scratch.dataset=mnist", "scratch.epochs=3", f"tracking.uri={uri}")


@pytest.fixture(scope="module")
def ids(settings, settings_of, tmp_path_factory):
    """The ids of two finished runs and one that failed, oldest first."""
    uri = f"tracking.uri={settings.tracking.uri}"
    other = settings_of("net=keras", "keras.units=[8,4]", "scratch.dataset=mnist", "scratch.epochs=2", uri)
    folder = tmp_path_factory.mktemp("nets")
    made = [track(settings, folder), track(other, folder, net="keras", figures=None)]
    with pytest.raises(ValueError, match="on purpose"):
        fail(settings)
    import mlflow

    newest = mlflow.MlflowClient(settings.tracking.uri).search_runs([find_experiment(settings)], max_results=1)
    return [*made, newest[0].info.run_id]


def test_newest_run_comes_first_and_the_id_is_the_index(settings, ids):
    table = runs(settings=settings)
    assert list(table.index) == ids[::-1]
    assert table.index.name == "run_id"
    assert list(runs(2, settings=settings).index) == ids[:0:-1]


def test_numbers_are_numbers_and_what_a_run_has_not_got_is_missing(settings, ids):
    table = runs(settings=settings)
    first, keras = table.loc[ids[0]], table.loc[ids[1]]
    assert first["learning_rate"] == settings.scratch.learning_rate
    assert table["epochs"].dtype.kind == "i"
    assert table["seconds"].dtype.kind == "f"
    assert first["shuffle"] is True or first["shuffle"] == np.True_
    assert keras["units"] == "8,4"
    assert pd.isna(first["dropout"])
    assert pd.isna(keras["test_accuracy"])
    assert first["test_accuracy"] == 0.75
    assert "early_stopping" not in table  # null in every run


def test_how_a_run_ended_and_its_lineage_are_columns(settings, ids):
    table = runs(settings=settings)
    assert list(table["status"]) == ["FAILED", "FINISHED", "FINISHED"]
    assert table["name"].iloc[-1].startswith("scratch mnist")
    assert table["started"].is_monotonic_decreasing
    assert set(table["data.md5"]) == {DATA_MD5}
    assert set(table["git.commit"]) == {CODE.commit}
    assert re.fullmatch("[0-9a-f]{64}", table["weights_sha256"].iloc[-1])
    assert "on purpose" in table["error"].iloc[0]
    assert not [name for name in table.columns if name.startswith("mlflow.")]


def test_columns_stand_in_order_and_attrs_name_their_kinds(settings, ids):
    table = runs(settings=settings)
    assert list(table.columns[:7]) == ["name", "status", "started", "seconds", "net", "dataset", "seed"]
    assert table.attrs["metrics"][:4] == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert "units" in table.attrs["params"]
    assert table.columns.is_unique


def test_given_runs_come_in_the_order_given_by_any_unique_beginning(settings, ids):
    asked = [ids[1][:12], ids[0]]
    assert list(runs(settings=settings, run_ids=asked).index) == [ids[1], ids[0]]


@pytest.mark.parametrize(
    ("run_id", "message"),
    [
        (
            "0" * 31,
            "0: the tracking store has no such run; `python -m pipeline.compare` lists the newest of sqlite:///",
        ),
        ("%", "%: a run's id, or the beginning of one, is needed"),
        ("", "a run's id, or the beginning of one, is needed"),
        ("ABC", "ABC: a run's id"),
        ("a' OR '1'='1", "a run's id, or the beginning of one, is needed"),
    ],
)
def test_an_id_that_fits_no_run_is_named(settings, ids, run_id, message):
    with pytest.raises(DataError, match=re.escape(message)):
        runs(settings=settings, run_ids=[run_id])


@pytest.mark.parametrize("length", [32, 12])
def test_a_run_of_another_experiment_is_found_and_a_deleted_one_is_not(settings, settings_of, tmp_path, length):
    import mlflow

    other = settings_of("scratch.epochs=2", f"tracking.uri={settings.tracking.uri}", "tracking.experiment=ideas")
    run_id = track(other, tmp_path)
    assert list(runs(settings=settings, run_ids=[run_id[:length]]).index) == [run_id]
    assert len(history(run_id[:length], settings=settings)) == 2
    mlflow.MlflowClient(settings.tracking.uri).delete_run(run_id)
    with pytest.raises(DataError, match="has no such run"):
        history(run_id[:length], settings=settings)


def test_an_id_that_fits_several_runs_is_refused_with_what_it_fits(settings):
    import mlflow

    client = mlflow.MlflowClient(settings.tracking.uri)
    made: dict[str, str] = {}
    while True:  # 17 runs share a first digit at the latest
        run_id = client.create_run(find_experiment(settings), run_name="filler").info.run_id
        client.set_terminated(run_id)
        if run_id[0] in made:
            break
        made[run_id[0]] = run_id
    try:
        with pytest.raises(DataError, match=rf"{run_id[0]}: fits \d+ runs \(.*{run_id[:5]}.*give more of the id"):
            history(run_id[0], settings=settings)
    finally:
        for filler in (*made.values(), run_id):
            client.delete_run(filler)


def test_history_has_a_row_an_epoch_and_keras_names(settings, ids):
    curves = history(ids[0][:10], settings=settings)
    assert list(curves.index) == [1, 2, 3]
    assert curves.index.name == "epoch"
    assert list(curves.columns) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    last = runs(settings=settings).loc[ids[0]]
    for name in curves:
        assert curves[name].iloc[-1] == last[name]


def test_history_of_a_run_without_an_epoch_is_empty(settings, ids):
    assert history(ids[2], settings=settings).empty


def test_without_a_store_there_are_no_runs_and_none_is_made(settings_of, tmp_path):
    settings = settings_of(f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}")
    table = runs(settings=settings)
    assert table.empty
    assert {"name", *FIRST["params"], *FIRST["metrics"]} <= set(table.columns)
    assert table.attrs["params"] == table.attrs["metrics"] == []
    assert list(tmp_path.iterdir()) == []


def test_without_the_experiment_there_are_no_runs_and_none_is_made(settings_of, new_store, tmp_path):
    settings = settings_of(f"tracking.uri={new_store(tmp_path)}", "tracking.experiment=another")
    assert runs(settings=settings).empty
    assert find_experiment(settings) is None


def test_params_that_lag_behind_conf_are_an_error_that_says_how_they_are_made(settings_of, tmp_path, monkeypatch):
    plain = to_dict(settings_of())
    del plain["scratch"]["n_hidden"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(
        SettingsError, match=r"^params\.yaml: scratch\.n_hidden: .*; `dvc repro compose` makes it anew"
    ):
        own_settings()


@pytest.mark.parametrize("is_there", [True, False], ids=["with runs", "without a store"])
def test_the_readmes_notebook_snippet_runs(settings, ids, call, tmp_path, is_there):
    """It is run in another project's folder, as a notebook may be, on the store of this module, and on none."""
    (tmp_path / "params.yaml").write_text("epochs: 3\n")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    snippet = next((block for block in blocks if "from pipeline.tracking import" in block), None)
    assert snippet is not None
    uri = settings.tracking.uri if is_there else f"sqlite:///{tmp_path / 'mlflow.db'}"
    env = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "MPLBACKEND": "agg"}
    call(tmp_path, "python", "-c", snippet, env=env)
