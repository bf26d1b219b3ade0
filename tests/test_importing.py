"""The runs of another store as records: what stands in that store steers nothing on this disk."""

import contextlib
import re
import sqlite3
import threading

import pytest

from pipeline.errors import SettingsError
from pipeline.tracking import importing
from pipeline.tracking.importing import LOCK_FILE, import_runs
from pipeline.tracking.records import Delivered, Opening, Record
from pipeline.tracking.store import open_experiment

KEY = "sqlite:////to.db"

pytestmark = pytest.mark.usefixtures("own_tracking")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


@pytest.fixture
def source(new_store, tmp_path):
    (tmp_path / "source").mkdir()
    return new_store(tmp_path / "source")


@pytest.fixture
def client(source):
    import mlflow

    return mlflow.MlflowClient(source)


def run_of(client, source, status="FINISHED", **tags) -> str:
    """Make a run in the other store, and return its id."""
    run_id = client.create_run(open_experiment(source, "neural-nets"), tags=tags).info.run_id
    client.log_metric(run_id, "loss", 0.5, timestamp=7, step=1)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def add_model(client, source, run_id) -> None:
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(open_experiment(source, "neural-nets"), source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def hold(source, sql: str) -> None:
    """Change a store as whoever made it can."""
    with contextlib.closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as database, database:
        database.execute(sql)


def brought(source, folder) -> list[Record]:
    records, n_lost = import_runs(source, "neural-nets", KEY, folder)
    assert n_lost == 0
    return records


def names_in(folder) -> set[str]:
    return {found.name for found in folder.iterdir() if found.name != LOCK_FILE}


def test_a_store_that_was_moved_with_its_folder_brings_its_files(client, source, folder, tmp_path):
    run_id = run_of(client, source, weights_sha256="w")
    client.log_text(run_id, "hello", "deep/a.txt")
    (tmp_path / "source").rename(tmp_path / "moved")
    (record,) = brought(f"sqlite:///{tmp_path}/moved/mlflow.db", folder)
    assert (record.folder / "artifacts/deep/a.txt").read_text() == "hello"


def test_a_run_whose_files_are_gone_is_told_and_makes_no_record(client, source, folder, tmp_path, caplog):
    client.log_text(run_of(client, source, weights_sha256="w"), "hello", "a.txt")
    fileless = run_of(client, source)
    (tmp_path / "source" / "mlartifacts").rename(tmp_path / "elsewhere")
    records, n_lost = import_runs(source, "neural-nets", KEY, folder)
    assert ([record.id for record in records], n_lost) == ([fileless], 1)
    assert names_in(folder) == {fileless}
    assert "left out: its files are not there: " in caplog.messages[0]


def test_a_run_that_still_runs_is_brought_and_again_when_it_goes_on(client, source, folder):
    parent = run_of(client, source, status="RUNNING")
    part = run_of(client, source, **{"mlflow.parentRunId": parent})
    first, second = brought(source, folder)
    assert (first.state.status, first.state.tags["imported_status"]) == ("KILLED", "RUNNING")
    assert (second.id, second.opening.parent) == (part, first.id)
    first.save_delivered(KEY, Delivered("id", offset=first.points_size, whole=first.fingerprint()))
    written = (first.folder / "state.json").stat().st_mtime_ns
    brought(source, folder)
    assert (first.folder / "state.json").stat().st_mtime_ns == written
    before = first.delivered(KEY).offset
    client.log_metric(parent, "loss", 0.25, timestamp=8, step=2)
    client.log_text(parent, "late", ".hydra/config.yaml")
    client.set_terminated(parent)
    brought(source, folder)
    assert (first.state.status, first.state.tags["imported_status"]) == ("FINISHED", "FINISHED")
    assert [(one.time, one.step, one.metrics) for one, _ in first.points(before)] == [(8, 2, {"loss": 0.25})]
    assert list(first.artifacts()) == [".hydra/config.yaml"]
    assert first.waits_for(KEY)


def test_points_of_one_name_and_moment_are_all_brought_and_once(client, source, folder):
    run_id = run_of(client, source)
    for value in (0.25, 0.125):
        client.log_metric(run_id, "loss", value, timestamp=7, step=1)
    client.log_metric(run_id, "accuracy", 0.75, timestamp=7, step=1)
    for _ in range(2):
        (record,) = brought(source, folder)
        points = [one for one, _ in record.points()]
        assert {(one.time, one.step) for one in points} == {(7, 1)}
        assert sorted(value for one in points for value in one.metrics.values()) == [0.125, 0.25, 0.5, 0.75]
        client.set_tag(run_id, "seen", "again")


def test_of_two_imports_at_once_one_makes_the_record_and_the_other_finds_it(client, source, folder, monkeypatch):
    run_of(client, source)
    filled = []
    plain = importing._fill
    second = threading.Thread(target=brought, args=(source, folder))

    def fill(source, run, record, files):
        filled.append(record)
        if len(filled) == 1:
            second.start()
            second.join(timeout=1)  # in which it would have made a record of its own
        plain(source, run, record, files)

    monkeypatch.setattr(importing, "_fill", fill)
    brought(source, folder)
    second.join()
    assert len(filled) == 1


def test_a_part_of_a_run_that_is_left_out_waits_for_it(client, source, folder, tmp_path, caplog):
    parent = run_of(client, source, weights_sha256="w")
    client.log_text(parent, "hello", "a.txt")
    part = run_of(client, source, **{"mlflow.parentRunId": parent})
    files = tmp_path / "source" / "mlartifacts"
    files.rename(tmp_path / "away")
    assert import_runs(source, "neural-nets", KEY, folder) == ([], 2)
    assert caplog.messages[1].endswith(f"left out: so is the run {parent[:8]} that it is part of")
    (tmp_path / "away").rename(files)
    assert [(record.id, record.opening.parent) for record in brought(source, folder)] == [
        (parent, None),
        (part, parent),
    ]


def test_a_part_is_brought_if_the_run_it_is_part_of_was_before(client, source, folder, tmp_path):
    parent = run_of(client, source, weights_sha256="w")
    client.log_text(parent, "hello", "a.txt")
    brought(source, folder)
    part = run_of(client, source, **{"mlflow.parentRunId": parent})
    (tmp_path / "source" / "mlartifacts").rename(tmp_path / "away")
    records, n_lost = import_runs(source, "neural-nets", KEY, folder)
    assert ([(record.id, record.opening.parent) for record in records], n_lost) == ([(part, parent)], 1)


@pytest.mark.parametrize(
    ("profile", "n_rows"),
    [('{"num_rows": 7}', 7), ("no json", None), ("[1]", None), ('{"num_rows": [7]}', None), ("", None)],
)
def test_a_dataset_is_brought_whatever_its_profile_says(client, source, folder, profile, n_rows):
    from mlflow.entities import Dataset, DatasetInput

    client.log_inputs(run_of(client, source), [DatasetInput(Dataset("mnist", "d", "local", "{}", profile=profile))])
    (record,) = brought(source, folder)
    assert [one["n_rows"] for one in record.opening.datasets] == [n_rows]


@pytest.fixture
def odd(client, source) -> str:
    """Return a run whose model is gone."""
    run_id = run_of(client, source)
    client.log_text(run_id, "hello", "a.txt")
    add_model(client, source, run_id)
    hold(source, "DELETE FROM logged_models")
    return run_id


def test_what_is_wrong_with_one_run_leaves_out_that_one(client, source, folder, odd, caplog):
    whole = run_of(client, source)
    records, n_lost = import_runs(source, "neural-nets", KEY, folder)
    assert ([record.id for record in records], n_lost) == ([whole], 1)
    (line,) = caplog.messages
    assert re.match(rf"{odd[:8]}  \S+: left out: .*\bm-\w+\b.* not found", line)
    assert names_in(folder) == {whole}


def test_a_file_that_may_not_be_read_leaves_out_its_run_alone(client, source, folder, caplog, monkeypatch):
    closed, whole = run_of(client, source), run_of(client, source)
    client.log_text(closed, "hello", "a.txt")

    def refuse(source, run, name):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(importing.Source, "read", refuse)
    records, n_lost = import_runs(source, "neural-nets", KEY, folder)
    assert ([record.id for record in records], n_lost) == ([whole], 1)
    (line,) = caplog.messages
    assert re.match(rf"{closed[:8]}  \S+: left out: .*Permission denied: 'a\.txt'$", line)


def test_records_that_cannot_be_written_end_an_import_at_once(client, source, folder, caplog):
    run_of(client, source)
    folder.write_text("no folder")
    with pytest.raises(FileExistsError, match=re.escape(str(folder))):
        import_runs(source, "neural-nets", KEY, folder)
    assert caplog.messages == []


def test_a_store_that_is_away_in_the_middle_is_one_line_not_one_a_run(source, folder, odd, caplog, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*given, **more):
        raise MlflowException("Connection refused")

    monkeypatch.setattr(MlflowClient, "search_experiments", refuse)
    with pytest.raises(SettingsError, match=r"mlflow\.db cannot be read: connection refused$"):
        import_runs(source, "neural-nets", KEY, folder)
    assert caplog.messages == []


@pytest.fixture
def private(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("mine")
    return tmp_path / "private"


def assert_left_out(source, folder, caplog, named) -> None:
    assert import_runs(source, "neural-nets", KEY, folder) == ([], 1)
    (line,) = caplog.messages
    assert "left out: --from: files below" in line
    assert str(named) in line
    assert not [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == b"mine"]


@pytest.mark.parametrize("address", ["file://{}", "{}", "file://{}/../private"])
def test_a_folder_that_is_not_the_stores_is_not_read(client, source, folder, private, caplog, address):
    run_of(client, source)
    hold(source, f"UPDATE runs SET artifact_uri = '{address.format(private)}'")
    assert_left_out(source, folder, caplog, private)


def test_of_what_stands_beside_a_store_only_its_files_are_read(client, source, folder, private, caplog):
    run_of(client, source)
    private.rename(private.parent / "source" / "private")
    hold(source, f"UPDATE runs SET artifact_uri = '{private.parent}/source/private'")
    assert_left_out(source, folder, caplog, "source/private")


def test_a_database_that_is_not_mlflows_gets_no_tables_of_it(folder, tmp_path):
    study = f"sqlite:///{tmp_path}/study.db"
    hold(study, "CREATE TABLE trials (id)")
    with pytest.raises(SettingsError, match=r"study\.db: a store of MLflow's is needed"):
        import_runs(study, "neural-nets", KEY, folder)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("trials",)]


def test_a_way_out_of_the_stores_folder_is_not_gone(client, source, folder, private, caplog):
    run_of(client, source)
    (private.parent / "source" / "mlartifacts").mkdir(exist_ok=True)
    hold(source, "UPDATE runs SET artifact_uri = '/elsewhere/mlartifacts/../../private'")
    assert_left_out(source, folder, caplog, "private")


def test_a_link_out_of_a_runs_files_is_not_followed(client, source, folder, private, caplog):
    run_id = run_of(client, source)
    client.log_text(run_id, "hello", "deep/a.txt")
    (deep,) = (private.parent / "source").glob(f"mlartifacts/**/{run_id}/artifacts/deep")
    (deep / "b.txt").symlink_to(private / "key")
    assert_left_out(source, folder, caplog, private / "key")


@pytest.mark.parametrize("location", ["file://{}", "runs:/{}/deep"])
def test_a_model_that_is_not_the_stores_is_not_read(client, source, folder, private, caplog, location):
    run_id = run_of(client, source)
    add_model(client, source, run_id)
    client.log_text(run_id, "hello", "deep/a.txt")
    hold(source, f"UPDATE logged_models SET artifact_location = '{location.format(private)}'")
    assert import_runs(source, "neural-nets", KEY, folder) == ([], 1)
    assert str(private) in caplog.messages[0]
    assert names_in(folder) == set()


@pytest.mark.parametrize("tag", ["../victim", ".", "", "{}/victim", "A" * 32, "a" * 31])
def test_a_tag_that_is_no_id_names_no_folder(client, source, folder, tmp_path, tag):
    mine = Record.create(Opening("mine", KEY, "neural-nets"), {})
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("mine")
    run_id = run_of(client, source, record=tag.format(tmp_path))
    import_runs(source, "neural-nets", KEY, folder)
    assert (tmp_path / "victim" / "thesis.txt").read_text() == "mine"
    assert mine.opening.name == "mine"
    assert names_in(folder) == {mine.id, run_id}
