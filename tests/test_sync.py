"""`python -m pipeline.sync`: every record that a store lacks reaches it whole, once, whatever broke off before."""

import contextlib
import logging
import sqlite3
import sys
from pathlib import Path

import pytest
import trainer
import yaml
from servers import Server
from whole import assert_whole, lost_points, runs_of

from pipeline import sync as command
from pipeline import tracking
from pipeline.config import to_dict
from pipeline.tracking.delivery import Destination, deliver
from pipeline.tracking.records import FINISHED, Opening, PointsWriter, Record, all_records

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture
def own(environment, tmp_path):
    return environment | {"PIPELINE_RECORDS": str(tmp_path / "records"), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def params(settings_of, tmp_path) -> None:
    """Write the params.yaml of a project."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(to_dict(settings_of())))


@pytest.fixture
def sync(own, params, tmp_path, monkeypatch, caplog):
    """Return a function that does what the command does for a store, in this process, and returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_RECORDS", own["PIPELINE_RECORDS"])
    caplog.set_level(logging.INFO, "pipeline")

    def run(uri: str, *arguments: str, code: int = 0) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(sys, "argv", ["sync", *arguments])
        caplog.clear()
        ended = None
        try:
            command.main()
        except SystemExit as error:
            ended = error.code
        assert bool(ended) == bool(code)
        lines = [*caplog.messages, *([ended] if isinstance(ended, str) else [])]
        return "".join(f"{line}\n" for line in lines)

    return run


@pytest.fixture
def terminal(call, own, params, tmp_path):
    """Return a function that calls the command for a store, and returns what it says."""

    def run(uri: str, *arguments: str) -> str:
        env = own | {"MLFLOW_TRACKING_URI": uri}
        return call(tmp_path, sys.executable, "-m", "pipeline.sync", *arguments, env=env).stderr

    return run


@pytest.fixture
def store(new_store, tmp_path):
    return new_store(tmp_path)


@pytest.fixture
def client(store):
    import mlflow

    return mlflow.MlflowClient(store)


@pytest.fixture
def waiting(store, own, tmp_path):
    """Return the records of three trainings whose store was away: its file was locked by no one, but its folder bare.

    They are told that they were meant for the store that the test has.
    """
    trainer.finish(trainer.start(own, uri="http://127.0.0.1:9", epochs=30, n_runs=3))
    records = all_records(tmp_path / "records")
    for record in records:
        file = record.folder / "run.json"
        file.write_text(file.read_text().replace("http://127.0.0.1:9", store))
    return records


def write_record(store, tmp_path, name="made", parent=None, ended=True) -> Record:
    """Write a small record by hand, with points of its own times."""
    made = Record.create(
        Opening(name, store, "neural-nets", {"net": "scratch"}, parent=parent, start_time=1_000_000),
        {},
        folder=tmp_path / "records",
    )
    points = PointsWriter(made)
    for step in range(1, 4):
        points.append(step, {"loss": 1 / step}, at=1_000_000 + step)
    points.close()
    if ended:
        made.change(status=FINISHED, end_time=1_000_010)
    return made


def test_what_waits_is_brought_whole_and_twice_doubles_nothing(waiting, sync, store, client, tmp_path):
    said = sync(store)
    assert said.splitlines()[-1] == f"{store}: 3 brought"
    assert len(said.splitlines()) == 4
    for _ in range(2):
        for record in waiting:
            assert_whole(client, tmp_path / "records", record.id)
        assert sync(store) == f"nothing waits for {store}\n"
    for record in waiting:  # as if what was delivered had never been noted
        (record.folder / "delivered.json").unlink()
    sync(store)
    assert len(runs_of(client)) == 3
    for record in waiting:
        assert_whole(client, tmp_path / "records", record.id)


def test_points_keep_their_own_time_and_step(sync, store, client, tmp_path):
    record = write_record(store, tmp_path)
    sync(store)
    (run,) = runs_of(client, record.id)
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.timestamp, point.step) for point in points] == [(1_000_000 + step, step) for step in (1, 2, 3)]
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_000_010)


def test_a_parent_comes_before_its_parts(sync, store, client, tmp_path):
    parent = write_record(store, tmp_path, "parent")
    part = write_record(store, tmp_path, "part", parent.id)
    orphan = write_record(store, tmp_path, "orphan", "f" * 32)
    assert [line.split()[1] for line in sync(store).splitlines()[:3]] == ["parent:", "part:", "orphan:"]
    (parents_run,) = runs_of(client, parent.id)
    (parts_run,) = runs_of(client, part.id)
    assert parts_run.data.tags["mlflow.parentRunId"] == parents_run.info.run_id
    assert "mlflow.parentRunId" not in runs_of(client, orphan.id)[0].data.tags


def test_a_record_whose_process_died_is_ended_and_one_that_is_written_is_left_alone(sync, store, client, tmp_path):
    dead = write_record(store, tmp_path, "dead", ended=False)
    alive = write_record(store, tmp_path, "alive", ended=False)
    with alive.use():
        said = sync(store)
    assert "its process died: KILLED" in said
    assert said.splitlines()[-1] == f"{store}: 1 brought, 1 left alone, as their process still works on them"
    (run,) = runs_of(client)
    assert run.data.tags["record"] == dead.id
    assert run.info.status == "KILLED"
    assert "died before it ended the run" in run.data.tags["error"]
    assert lost_points(client, run.info.run_id, dead) == 0


def test_a_store_that_is_away_is_one_line_without_a_password(sync, tmp_path):
    write_record("http://127.0.0.1:9", tmp_path)
    said = sync("http://ann:secret@127.0.0.1:9", code=1)
    assert said == "error: tracking.uri: http://127.0.0.1:9 cannot be opened: connection refused\n"


@pytest.mark.parametrize("file", ["run.json", "state.json"])
def test_a_damaged_record_is_one_line_and_holds_up_no_other(sync, store, client, tmp_path, file):
    damaged = write_record(store, tmp_path, "damaged")
    whole = write_record(store, tmp_path, "whole")
    (damaged.folder / file).write_text("")
    lines = sync(store, code=1).splitlines()
    assert len(lines) == 3
    assert any(f"{damaged.folder / file}: is damaged" in line for line in lines[:2])
    assert lines[2].startswith(f"{store}: 1 brought, 1 could not be")
    assert [run.data.tags["record"] for run in runs_of(client)] == [whole.id]


def remade(store, new_store, tmp_path) -> None:
    """Put a new store in the place of one."""
    (tmp_path / "new").mkdir()
    new = new_store(tmp_path / "new").removeprefix("sqlite:///")
    replaced(store, new)


def replaced(store, by) -> None:
    with (
        contextlib.closing(sqlite3.connect(by)) as source,
        contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as copy,
    ):
        source.backup(copy)


def test_a_store_made_anew_gets_everything_again(sync, store, new_store, tmp_path):
    import mlflow

    whole = write_record(store, tmp_path, "whole")
    live = write_record(store, tmp_path, "live", ended=False)
    sync(store)  # the live one is delivered, and goes on
    live.change(status="RUNNING", end_time=None)
    sync(store)
    live.change(status=FINISHED, end_time=1_000_010)
    remade(store, new_store, tmp_path)
    said = sync(store)
    assert said.startswith(f"{store}: it has lost what it had got")
    client = mlflow.MlflowClient(store)
    for record in (whole, live):
        (run,) = runs_of(client, record.id)
        assert run.info.status == "FINISHED"
        assert lost_points(client, run.info.run_id, record) == 0
    assert sync(store) == f"nothing waits for {store}\n"


def test_a_store_restored_from_an_earlier_backup_gets_what_it_lacks(sync, store, client, tmp_path):
    record = write_record(store, tmp_path, ended=False)
    deliver(record, Destination(store))
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as now:
        now.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    points = PointsWriter(record)
    points.append(4, {"loss": 0.25}, at=1_000_004)
    points.close()
    record.change(status=FINISHED, end_time=1_000_010)
    sync(store)
    replaced(store, tmp_path / "backup.db")
    assert "lost what it had got" in sync(store)
    (run,) = runs_of(client, record.id)
    assert run.info.status == "FINISHED"
    assert lost_points(client, run.info.run_id, record) == 0


def test_again_brings_what_the_store_is_noted_to_have(sync, store, client, tmp_path):
    record = write_record(store, tmp_path)
    sync(store)
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM metrics WHERE step = 2")
    assert sync(store) == f"nothing waits for {store}\n"
    assert sync(store, "--again").splitlines()[-1] == f"{store}: 1 brought"
    (run,) = runs_of(client, record.id)
    assert lost_points(client, run.info.run_id, record) == 0


def test_a_live_run_that_the_store_has_lost_is_made_again(store, client, tmp_path):
    record = write_record(store, tmp_path, ended=False)
    to = Destination(store)
    lost = deliver(record, to).run_id
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database, database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table}")
    record.change({"late": "tag"})
    has = deliver(record, to)
    assert has.run_id != lost
    assert lost_points(client, has.run_id, record) == 0


def test_a_run_that_was_deleted_in_the_store_stays_deleted(sync, store, client, tmp_path):
    record = write_record(store, tmp_path)
    sync(store)
    (run,) = runs_of(client)
    client.delete_run(run.info.run_id)
    record.change({"late": "tag"})
    for arguments in ([], [], ["--again"]):
        said = sync(store, *arguments).splitlines()
        assert said[-2].endswith(f"made: run {run.info.run_id} was deleted there, and stays so")
        assert said[-1] == f"{store}: 0 brought, 1 left alone, as their runs were deleted there"
    assert runs_of(client) == []


def test_what_waits_for_another_store_is_told(sync, store, tmp_path):
    write_record("http://127.0.0.1:9", tmp_path)
    assert sync(store).splitlines()[1:] == [
        "1 wait for http://127.0.0.1:9: MLFLOW_TRACKING_URI=http://127.0.0.1:9 python -m pipeline.sync"
    ]


def test_to_brings_every_record_to_another_store(waiting, sync, store, new_store, tmp_path):
    import mlflow

    (tmp_path / "other").mkdir()
    other = new_store(tmp_path / "other")
    assert sync(store, "--to", other).splitlines()[-1] == f"{other}: 3 brought"
    for record in waiting:
        assert_whole(mlflow.MlflowClient(other), tmp_path / "records", record.id)


def test_from_brings_the_runs_of_another_store_with_artifacts_and_models(
    sync, store, client, own, new_store, tmp_path
):
    import mlflow

    (tmp_path / "other").mkdir()
    other = new_store(tmp_path / "other")
    elsewhere = own | {"PIPELINE_RECORDS": str(tmp_path / "elsewhere")}
    said, _ = trainer.finish(trainer.start(elsewhere, uri=other, epochs=30))
    source = mlflow.MlflowClient(other)
    experiment = source.get_experiment_by_name("neural-nets").experiment_id
    stranger = source.create_run(experiment, run_name="of no record")
    source.log_metric(stranger.info.run_id, "loss", 0.5, timestamp=7, step=3)
    source.set_terminated(stranger.info.run_id)
    for _ in range(2):
        sync(store, "--from", other)
        assert len(runs_of(client)) == 2
    (first,) = runs_of(client, said["record_id"])
    original = source.get_run(said["run_id"])
    assert first.data.params == original.data.params
    assert (first.info.start_time, first.info.end_time) == (original.info.start_time, original.info.end_time)
    assert lost_points(client, first.info.run_id, Record(tmp_path / "elsewhere" / said["record_id"])) == 0
    assert {one.path for one in client.list_artifacts(first.info.run_id)} == {
        one.path for one in source.list_artifacts(said["run_id"])
    }
    (point,) = client.get_metric_history(runs_of(client, stranger.info.run_id)[0].info.run_id, "loss")
    assert (point.timestamp, point.step, point.value) == (7, 3, 0.5)
    (model,) = first.outputs.model_outputs
    mlflow.set_tracking_uri(store)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert loaded.metadata.run_id == first.info.run_id
    assert loaded.predict(loaded.input_example).shape == (2, 3)


@pytest.mark.parametrize("source", ["sqlite:////none/mlflow.db", "/none/mlflow.db"])
def test_from_a_store_that_is_not_there_is_one_line_and_makes_none(sync, store, source):
    said = sync(store, "--from", source, code=1)
    assert said == "error: --from: sqlite:////none/mlflow.db: no such file\n"


def test_a_server_gets_what_its_absence_has_kept(terminal, own, tmp_path):
    import mlflow

    server = Server(tmp_path, own)
    said, log = trainer.finish(trainer.start(own, uri=server.uri, epochs=30))
    assert len(log) == 1
    try:
        server.start()
        assert terminal(server.uri).endswith(": 1 brought\n")
        assert terminal(server.uri).startswith("nothing waits for")
        assert_whole(mlflow.MlflowClient(server.uri), tmp_path / "records", said["record_id"])
    finally:
        server.kill()
    assert tracking.tracking_uri  # nothing of MLflow's is left set by this test
