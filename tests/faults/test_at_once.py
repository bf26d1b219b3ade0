"""Many processes on one SQLite store at once, from before there is one: no error, every run, every point."""

import contextlib
import sqlite3
import threading

import pytest
import trainer
from whole import assert_whole, lost_points, runs_of

from pipeline.tracking.records import all_records
from pipeline.tracking.store import client_of, open_experiment

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.mark.parametrize(("n_writers", "n_runs"), [(3, 4), pytest.param(8, 50, marks=pytest.mark.slow)])
def test_many_writers_and_a_reader_share_one_store(n_writers, n_runs, environment, tmp_path, count):
    faults = count("runs of writers at once on one new SQLite store, with a reader polling", "points")
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    ended = threading.Event()
    failures: list[Exception] = []
    polls: list[int] = []

    def poll() -> None:
        while not ended.wait(0.1):
            try:
                open_experiment(uri, "neural-nets")
                polls.append(len(runs_of(client_of(uri))))
            except Exception as error:  # any would be the fault that is sought
                failures.append(error)

    environment = environment | {"PIPELINE_RECORDS": str(tmp_path / "records")}
    processes = [trainer.start(environment, uri=uri, epochs=20, n_runs=n_runs) for _ in range(n_writers)]
    reader = threading.Thread(target=poll)
    reader.start()
    faults.injected = n_writers * n_runs
    logs = [trainer.finish(process)[1] for process in processes]
    ended.set()
    reader.join()
    faults.note = f"{n_writers} writers, {len(polls)} polls"
    assert failures == []
    assert len(polls) > 1
    assert [line for log in logs for line in log if "made for MLflow's runs" not in line] == []
    records = all_records(tmp_path / "records")
    assert len(records) == len(runs_of(client_of(uri))) == n_writers * n_runs
    for record in records:
        (run,) = runs_of(client_of(uri), record.id)
        faults.lost += lost_points(client_of(uri), run.info.run_id, record)
        assert_whole(client_of(uri), tmp_path / "records", record.id)
        faults.survived += 1
    with contextlib.closing(sqlite3.connect(tmp_path / "new/mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_two_first_starts_at_once_make_one_store(environment, tmp_path, count):
    faults = count("first starts at once", "runs")
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    environment = environment | {"PIPELINE_RECORDS": str(tmp_path / "records")}
    faults.injected = 2
    processes = [trainer.start(environment, uri=uri, epochs=3) for _ in range(2)]
    said = [trainer.finish(process)[0] for process in processes]
    faults.lost = 2 - len(runs_of(client_of(uri)))
    assert faults.lost == 0
    faults.survived = sum(one["run_id"] is not None for one in said)
    assert faults.survived == 2
