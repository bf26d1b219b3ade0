"""How a record is brought: what holds the store's write lock, and what becomes of long values."""

import json
import threading
from pathlib import Path

import pytest

from pipeline.tracking import registry
from pipeline.tracking.delivery import LARGEST_TAG, SAFE_TAG, Destination, deliver
from pipeline.tracking.locks import is_held
from pipeline.tracking.records import FINISHED, Opening, Record
from pipeline.tracking.reports import _add_to

pytestmark = pytest.mark.usefixtures("own_tracking")


@pytest.fixture
def to(new_store, tmp_path) -> Destination:
    return Destination(new_store(tmp_path))


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "mlflow.db.write.lock"


def ended(to, tmp_path, model=False, **tags) -> Record:
    record = Record.create(Opening("made", to.key, "neural-nets", {"a": "b"}), tags, folder=tmp_path / "records")
    if model:
        (record.folder / "model" / "mlflow").mkdir(parents=True)
        (record.folder / "model" / "mlflow" / "MLmodel").write_text("flavors: {}\n")
        (record.folder / "model" / "parts.json").write_text(json.dumps({"flavor": "mlflow"}))
    record.change(status=FINISHED, end_time=1, model=model)
    return record


@pytest.fixture
def spied(to, lock, monkeypatch):
    """Return a dict that gets, by the name of a client's method, whether the write lock was held in it."""
    held = {}

    def spy(name):
        plain = getattr(to.client, name)

        def call(*arguments, **options):
            held[name] = is_held(lock)
            return plain(*arguments, **options)

        monkeypatch.setattr(to.client, name, call)

    for name in (
        *("create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs"),
        *("create_registered_model", "log_batch", "log_artifacts"),
    ):
        spy(name)
    return held


def test_a_model_is_uploaded_while_others_may_write(to, spied, tmp_path):
    has = deliver(ended(to, tmp_path, model=True), to)
    assert to.client.get_logged_model(has.model_id).status == "READY"
    assert not spied.pop("log_model_artifacts")
    del spied["log_batch"]
    assert spied == {"create_logged_model": True, "finalize_logged_model": True, "log_outputs": True}


def test_the_registry_and_a_report_write_in_the_queue(to, spied, tmp_path):
    run_id = deliver(ended(to, tmp_path), to).run_id
    spied.clear()
    assert registry._champion(to, "mnist") is None
    _add_to(to, run_id, {"test_accuracy": 0.75}, {"curve": b"png"}, None)
    assert spied == {"create_registered_model": True, "log_batch": True, "log_artifacts": False}
    assert to.client.get_run(run_id).data.metrics == {"test_accuracy": 0.75}


@pytest.mark.parametrize("parents", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}])
def test_records_whose_parents_go_in_a_circle_do_not_wait_for_each_other(to, tmp_path, monkeypatch, parents):
    monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path / "records"))
    records = [Record.create(Opening(own, to.key, "neural-nets", parent=up), {}, own) for own, up in parents.items()]
    bringing = threading.Thread(target=lambda: [deliver(record, to) for record in records], daemon=True)
    bringing.start()
    bringing.join(timeout=30)  # seconds
    assert not bringing.is_alive()
    assert all(record.delivered(to.key).run_id for record in records)


@pytest.mark.parametrize("length", [SAFE_TAG + 1, LARGEST_TAG])
def test_a_long_tag_comes_whole(to, tmp_path, caplog, length):
    run_id = deliver(ended(to, tmp_path, long="x" * length), to).run_id
    assert to.client.get_run(run_id).data.tags["long"] == "x" * length
    assert caplog.messages == []


def test_a_tag_that_is_cut_is_named(to, tmp_path, caplog):
    record = ended(to, tmp_path, long="x" * (LARGEST_TAG + 1))
    run_id = deliver(record, to).run_id
    assert len(to.client.get_run(run_id).data.tags["long"]) == LARGEST_TAG
    assert f"the tag long is cut to {LARGEST_TAG} characters there; {record.folder} has all" in caplog.text


def test_a_store_with_a_smaller_limit_gets_what_it_takes(to, tmp_path, caplog, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    plain = to.client.log_batch

    def strict(run_id, *given, **more):
        if any(len(tag.value) > SAFE_TAG for tag in more.get("tags", ())):
            raise MlflowException("too long", INVALID_PARAMETER_VALUE)
        return plain(run_id, *given, **more)

    monkeypatch.setattr(to.client, "log_batch", strict)
    run_id = deliver(ended(to, tmp_path, long="x" * (SAFE_TAG + 1), short="y"), to).run_id
    tags = to.client.get_run(run_id).data.tags
    assert (len(tags["long"]), tags["short"]) == (SAFE_TAG, "y")
    assert f"the tag long is cut to {SAFE_TAG} characters" in caplog.text
