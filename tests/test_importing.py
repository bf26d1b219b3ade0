"""The runs of another store as records: what stands in that store steers nothing on this disk."""

import pytest

from pipeline.tracking.importing import import_runs
from pipeline.tracking.records import Opening, Record
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


@pytest.mark.parametrize("tag", ["../victim", ".", "", "{}/victim", "A" * 32, "a" * 31])
def test_a_tag_that_is_no_id_names_no_folder(client, source, folder, tmp_path, tag):
    mine = Record.create(Opening("mine", KEY, "neural-nets"), {})
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("mine")
    run_id = run_of(client, source, record=tag.format(tmp_path))
    import_runs(source, "neural-nets", KEY, folder)
    assert (tmp_path / "victim" / "thesis.txt").read_text() == "mine"
    assert mine.opening.name == "mine"
    assert {found.name for found in folder.iterdir()} == {mine.id, run_id}
