"""A run without a courier, or on a full disk: it is said, and the training goes on."""

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tracked import CODE, DATA_MD5, rows, wait_until

from pipeline import tracking
from pipeline.lineage import inputs_of
from pipeline.tracking.records import FINISHED, RUNNING, Opening, Record, find_record
from pipeline.tracking.sender import FIRST_ANSWER_SECONDS, STALLED_SECONDS, Sender

pytestmark = pytest.mark.usefixtures("own_tracking")


@pytest.fixture(autouse=True)
def no_process_left(monkeypatch):
    """Let no courier be started, and let later tests have one."""

    def none_left(*arguments, **options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    sender = sys.modules["pipeline.tracking.sender"]  # whose name the function has in the package
    monkeypatch.setattr(sender, "_senders", [])
    monkeypatch.setattr(sender, "subprocess", SimpleNamespace(Popen=none_left, PIPE=-1))


@pytest.fixture
def start(settings_of, tmp_path):
    settings = settings_of("scratch.dataset=mnist", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    inputs = inputs_of("mnist", rows(), DATA_MD5)
    return lambda code=CODE: tracking.start_run(settings, "scratch", inputs, code=code)


def test_a_courier_that_cannot_be_started_is_said_once_and_ends_no_training(start, caplog):
    for _ in range(2):
        with start() as run:
            run.on_epoch_end(0, {"loss": 0.5})
        record = find_record(run.record_id)
        assert record.state.status == FINISHED
        assert [points.step for points, _ in record.points()] == [1]
        assert run.run_id is None
        assert not record.is_in_use
    (line,) = caplog.messages
    assert "the process that brings it cannot be started: Resource temporarily unavailable" in line
    assert "`python -m pipeline.sync` brings what is missing" in line


def test_a_dvc_lock_with_a_password_is_no_artifact(start):
    for lock, is_kept in (("stages: {}\n", True), ("url: https://ann:secret@host/x\n", False)):
        with start(replace(CODE, lock=lock)) as run:
            pass
        assert ("dvc.lock" in find_record(run.record_id).artifacts()) == is_kept


@pytest.fixture
def on_news(monkeypatch):
    """Return a function that lets a courier, without a process, say things one by one when it is waited for."""

    def make(*said):
        own = Sender()
        own._is_gone = False
        left = list(said)
        monkeypatch.setattr(own._news, "wait", lambda timeout: own._hear(left.pop(0)))
        return own, left

    return make


def opened(sender, uri="http://host") -> Record:
    record, in_use = Record.begin(Opening("run", uri, "neural-nets"), {})
    sender.open(record, uri)
    sender.end(record, in_use)
    return record


def test_a_store_that_was_away_when_last_asked_is_waited_for_by_no_further_run(on_news):
    sender, left = on_news()
    first = opened(sender)
    left += [{"record": first.id, "away": "connection refused"}]
    assert sender.wait(first).away == "connection refused"
    second = opened(sender)
    assert sender.wait(second).settled  # or it would hear of a list that is empty
    assert not second.is_in_use
    sender._hear({"record": second.id, "run_id": "id", "experiment_id": "1"})
    third = opened(sender)
    left += [{"record": third.id, "moved": True}, {"record": third.id, "whole": True}]
    assert sender.wait(third).settled
    assert left == []


def test_a_silent_server_is_waited_for_until_it_should_have_answered_and_once(on_news, monkeypatch, caplog):
    sender, left = on_news()
    first = opened(sender, "http://silent")
    assert sender._seconds_left(first) > FIRST_ANSWER_SECONDS  # it is not asked yet
    left += [{"record": first.id, "asked": True}]
    monkeypatch.setattr(sys.modules["pipeline.tracking.sender"], "FIRST_ANSWER_SECONDS", 0.0)
    assert not sender.wait(first).settled
    assert left == []
    assert sender.wait(opened(sender, "http://silent")).settled
    assert len(caplog.messages) == 1
    sender.fate(first).in_use.close()


def test_a_busy_machine_is_told_as_that_and_keeps_no_further_run_waiting(on_news, monkeypatch, caplog):
    caplog.set_level("INFO")
    sender, left = on_news()
    first, second = opened(sender), opened(sender)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["pipeline.tracking.sender"], "STALLED_SECONDS", 0.0)
        assert not sender.wait(first).settled
    (line,) = caplog.messages
    assert line.startswith("http://host: not all of the run is there yet; ")
    assert not sender._away
    sender._moved -= STALLED_SECONDS
    assert not sender.wait(second).settled  # or it would hear of a list that is empty
    assert caplog.messages == [line]
    left += [{"record": second.id, "moved": True}, {"record": second.id, "whole": True}]
    sender._hear(left.pop(0))
    assert sender.wait(second).settled
    sender.fate(first).in_use.close()


def test_a_run_that_was_deleted_is_told_and_its_store_is_there_for_others(on_news, caplog):
    sender, left = on_news()
    record, in_use = Record.begin(Opening("run", "http://host", "neural-nets"), {})
    sender.open(record, "http://host")
    sender._hear({"record": record.id, "deleted": "run 1 was deleted there"})
    sender.end(record, in_use)
    assert sender.wait(record).settled
    assert not record.is_in_use
    assert caplog.messages == [f"http://host: run 1 was deleted there; all of it stays in records/{record.id}"]
    other = opened(sender)
    left += [{"record": other.id, "whole": True}]
    assert sender.wait(other).settled
    assert left == []


def test_a_disk_that_is_full_at_the_end_is_told_by_its_paths_and_ends_no_training(start, caplog, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with start() as run:
        run.on_epoch_end(0, {"loss": 0.5})
        run._points._file.close()
        run._points._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 – the run closes it
        run.on_epoch_end(1, {"loss": 0.25})
        wait_until(lambda: "mlflow.source.git.commit" in find_record(run.record_id).state.tags)
        monkeypatch.setattr(os, "fsync", full)
    record = find_record(run.record_id)
    assert record.state.status == RUNNING
    assert not record.is_in_use
    told = [line for line in caplog.messages if "No space left on device" in line]
    assert [line.split(":")[0] for line in told] == [
        str(record.folder / "state.json"),
        str(record.folder / "metrics.jsonl"),
    ]
