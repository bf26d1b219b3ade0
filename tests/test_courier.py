"""The courier beside a training: what reaches MLflow whatever happens to the server, the training or itself."""

import contextlib
import io
import json
import os
import queue
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import trainer
from servers import Server
from tracked import CODE, DATA_MD5, rows, wait_until
from whole import assert_whole, runs_of

from pipeline import tracking, train_scratch, trained
from pipeline.errors import DataError, Pruned, SettingsError
from pipeline.lineage import inputs_of
from pipeline.tracking import courier
from pipeline.tracking.courier import Courier, _allow_many_files, _read
from pipeline.tracking.pages import is_page
from pipeline.tracking.records import Opening, Record, find_record
from pipeline.tracking.registry import promote
from pipeline.tracking.sender import sender

ROOT = Path(__file__).resolve().parents[1]
DEAD = "http://ann:secret@127.0.0.1:9/team?token=abc"

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture
def settings(settings_of, new_store, tmp_path):
    return settings_of(
        "net=scratch", "scratch.dataset=mnist", "scratch.epochs=3", f"tracking.uri={new_store(tmp_path)}"
    )


@pytest.fixture
def client(settings):
    import mlflow

    return mlflow.MlflowClient(settings.tracking.uri)


@pytest.fixture
def own(environment, tmp_path):
    """The environment of a training whose records are one test's own."""
    return environment | {"PIPELINE_RECORDS": str(tmp_path / "records")}


@pytest.fixture
def start(settings):
    return lambda **given: tracking.start_run(
        settings, "scratch", inputs_of("mnist", rows(), DATA_MD5), code=CODE, **given
    )


def test_a_training_imports_no_mlflow_and_its_run_is_whole(settings, client, own, tmp_path):
    said, log = trainer.finish(trainer.start(own, uri=settings.tracking.uri))
    assert not said["imported_mlflow"]
    assert assert_whole(client, tmp_path / "records", said["record_id"]) == said["run_id"]
    assert log == []


def test_without_a_server_the_training_ends_well_and_says_so_once(own, tmp_path):
    process = trainer.start(own, uri=DEAD, n_runs=2)
    said, log = trainer.finish(process)
    (line,) = log
    assert line.startswith("http://127.0.0.1:9/team: the tracking store cannot be reached (connection refused): ")
    assert line.endswith("`python -m pipeline.sync` brings what is missing")
    assert said["run_id"] is None
    record = Record(tmp_path / "records" / said["record_id"])
    assert record.state.status == "FINISHED"
    assert {"weights.npz", "history.csv", "settings.yaml"} <= set(record.artifacts())
    everything = b"".join(path.read_bytes() for path in (tmp_path / "records").rglob("*") if path.is_file())
    assert b"secret" not in everything
    assert b"token" not in everything


def test_without_a_server_an_evaluation_says_so_once_and_its_figures_stay(settings_of, caplog, tmp_path):
    uri = "http://ann:secret@127.0.0.1:9/evaluated"
    settings = settings_of("scratch.dataset=mnist", "scratch.epochs=2", uri=uri)
    data = rows()
    with tracking.start_run(settings, "scratch", inputs_of("mnist", data, DATA_MD5), code=CODE) as run:
        result = train_scratch.run(settings.scratch, data, 0, run.on_epoch_end)
        trained.save(result, tmp_path / "net")
        run.log_trained(result, tmp_path / "net", settings, example=data["X_test"][:2])
    assert tracking.add_report(settings, result.weights_sha256, {"test_accuracy": 0.75}, {"curve": b"png"}) is None
    assert tracking.add_report(settings, "0" * 64, {"test_accuracy": 0.75}, {}) is None
    assert promote(settings, "mnist", DATA_MD5, lambda net: 0.0) is None
    shown = tracking.shown_at(settings, ["a", "b"])
    assert shown == "not known, http://127.0.0.1:9/evaluated does not answer"
    assert not is_page(shown)
    (line,) = [line for line in caplog.messages if "/evaluated" in line]
    assert "secret" not in line
    record = find_record(run.record_id)
    assert [points.metrics for points, _ in record.points()][-1] == {"test_accuracy": 0.75}
    assert "pictures/curve.png" in record.artifacts()


def test_a_training_that_leaves_its_end_to_the_courier_has_a_whole_run_soon(settings, client, own, tmp_path):
    said, log = trainer.finish(trainer.start(own, uri=settings.tracking.uri, epochs=3, leave=True))
    (run,) = wait_until(lambda: [run for run in runs_of(client) if run.info.status == "FINISHED"])
    assert assert_whole(client, tmp_path / "records", said["record_id"]) == run.info.run_id
    assert log == []


def test_a_store_is_one_file_once_all_who_have_used_it_are_gone(settings, own, tmp_path):
    """So it may be copied: nothing of it is left in SQLite's write-ahead log."""
    trainer.finish(trainer.start(own, uri=settings.tracking.uri, epochs=3, leave=True))
    store = Path(settings.tracking.uri.removeprefix("sqlite:///"))
    wait_until(lambda: not Path(f"{store}-wal").exists())
    with contextlib.closing(sqlite3.connect(shutil.copy(store, tmp_path / "copy.db"))) as copy:
        assert copy.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


def test_what_a_training_has_not_waited_to_hear_is_said_once_on_its_terminal(own):
    said, log = trainer.finish(trainer.start(own, uri=DEAD, epochs=3, n_runs=2, leave=True))
    (line,) = log
    assert line.startswith("http://127.0.0.1:9/team: the tracking store cannot be reached (connection refused): ")
    assert line.endswith("`python -m pipeline.sync` brings what is missing")
    assert "secret" not in line
    assert said["run_id"] is None


def test_the_courier_answers_calls_as_this_process_would(settings, start, caplog):
    with start() as run:
        pass
    shown = tracking.call("shown_at", settings, [run.run_id])
    assert shown == tracking.shown_at(settings, [run.run_id])
    assert is_page(shown)
    caplog.clear()
    dead = replace(settings, tracking=replace(settings.tracking, uri="http://ann:secret@127.0.0.1:9/called"))
    for task in ("mnist", "synthetic"):
        assert tracking.call("promote", dead, task, DATA_MD5, "") is None
    (line,) = [line for line in caplog.messages if "/called" in line]
    assert line.endswith("champion of mnist stays as it is")
    assert "secret" not in line


def test_a_courier_that_dies_in_a_call_is_not_missed(settings, start):
    with start() as run:
        pass
    group = sender()._process.pid
    os.killpg(group, signal.SIGSTOP)
    threading.Timer(0.2, os.killpg, (group, signal.SIGKILL)).start()
    assert tracking.call("shown_at", settings, [run.run_id]) == tracking.shown_at(settings, [run.run_id])


def test_a_server_that_never_answers_holds_the_training_up_for_seconds_at_its_end(own, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        said, log = trainer.finish(trainer.start(own, uri=uri, n_runs=3))
    assert said["run_id"] is None
    assert log[0].startswith(f"{uri}: the tracking store cannot be reached (")
    assert len(log) == 1


class Failing(BaseHTTPRequestHandler):
    """Answers whatever is asked by an error."""

    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_a_server_that_answers_with_errors_is_one_line_without_mlflows_own_words(own):
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as failing:
        threading.Thread(target=failing.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{failing.server_port}"
        said, (line,) = trainer.finish(trainer.start(own, uri=uri, epochs=3))
        failing.shutdown()
    why = "it answers with an error of its own, HTTP 500: its log says more"
    assert line.startswith(f"{uri}: the tracking store cannot be reached ({why}): ")
    assert said["run_id"] is None


class Login(Failing):
    """Answers as a proxy that asks for a password on a page of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Who are you?</html>")

    def do_POST(self) -> None:
        self.do_GET()


def test_a_proxys_page_in_place_of_an_answer_ends_no_courier(settings, caplog):
    with ThreadingHTTPServer(("127.0.0.1", 0), Login) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{proxy.server_port}"
        asked = replace(settings, tracking=replace(settings.tracking, uri=uri))
        first = sender()
        shown = tracking.call("shown_at", asked, ["a", "b"])
        assert tracking.call("promote", asked, "mnist", DATA_MD5, "") is None
        proxy.shutdown()
    assert shown.startswith(f"not known, {uri}")
    assert not is_page(shown)
    (line,) = [line for line in caplog.messages if "champion" in line]
    assert "champion of mnist stays as it is" in line
    assert sender() is first


def test_a_run_that_is_deleted_while_it_goes_on_makes_no_store_unreachable(start, client, caplog):
    with start() as run:
        wait_until(lambda: run.run_id)
        client.delete_run(run.run_id)
        run.on_epoch_end(0, {"loss": 0.5})
    told = f"run {run.run_id} was deleted there; all of it stays in records/{run.record_id}"
    assert [line.partition(": ")[2] for line in caplog.messages] == [told]
    with start() as other:
        other.on_epoch_end(0, {"loss": 0.5})
    assert client.get_run(other.run_id).info.status == "FINISHED"


def test_a_server_that_comes_back_gets_everything(own, tmp_path):
    import mlflow

    server = Server(tmp_path, own)
    server.start()
    try:
        process = trainer.start(own, uri=server.uri, epochs=100, pause=0.02, until=str(tmp_path / "up"))
        client = mlflow.MlflowClient(server.uri)
        wait_until(lambda: any(run.data.metrics for run in runs_of(client)))
        server.kill()
        server.start()
        (tmp_path / "up").touch()
        said, _ = trainer.finish(process)  # which does not wait for a server that was away when last asked
        wait_until(lambda: not Record(tmp_path / "records" / said["record_id"]).is_in_use)
        assert_whole(client, tmp_path / "records", said["record_id"])
    finally:
        server.kill()


def test_a_courier_that_dies_costs_no_training(start, client, caplog):
    with start() as first:
        os.killpg(tracking.sender()._process.pid, signal.SIGKILL)
        first.on_epoch_end(0, {"loss": 0.5})
    assert any("the process that brings it has ended" in line for line in caplog.messages)
    with start() as second:  # with a new one
        second.on_epoch_end(0, {"loss": 0.5})
    assert client.get_run(second.run_id).info.status == "FINISHED"


def test_a_trial_that_is_pruned_is_killed_without_an_error(start, client):
    with pytest.raises(Pruned), start() as run:
        run.on_epoch_end(0, {"loss": 0.5})
        raise Pruned
    found = client.get_run(run.run_id)
    assert found.info.status == "KILLED"
    assert found.data.tags["pruned"] == "true"
    assert "error" not in found.data.tags


def test_an_error_with_an_address_leaves_no_password(start, client):
    with pytest.raises(OSError, match="secret"), start() as run:
        raise OSError("http://ann:secret@host/ does not answer")
    assert client.get_run(run.run_id).data.tags["error"] == "OSError: http://host/ does not answer"


def test_a_parent_is_opened_again_and_its_parts_name_it(settings, start, client):
    parent = tracking.open_parent(settings, "p" * 32, "a sweep", {"sampler": "tpe", "none": None}, {"sweep": "s"})
    parent.on_epoch_end(0, {"best": 0.5})
    parent.end("KILLED", {"error": "its process died"})
    first = client.get_run(parent.run_id)
    assert (first.info.status, first.info.run_name, first.data.params) == ("KILLED", "a sweep", {"sampler": "tpe"})
    with tracking.open_parent(settings, "p" * 32, "another name") as again:
        with start(member=tracking.Member(again.record_id, {"trial": "3"})) as part:
            part.on_epoch_end(0, {"loss": 0.5})
        wait_until(lambda: client.get_run(first.info.run_id).info.status == "RUNNING")
        again.on_epoch_end(1, {"best": 0.25})
        again.log_text("<p>report</p>", "report.html")
    assert again.run_id == first.info.run_id
    found = client.get_run(again.run_id)
    assert (found.info.status, found.info.run_name, found.data.tags["sweep"]) == ("FINISHED", "a sweep", "s")
    assert found.data.tags["error"] == "none: it was gone on with"
    assert [point.value for point in client.get_metric_history(again.run_id, "best")] == [0.5, 0.25]
    assert [artifact.path for artifact in client.list_artifacts(again.run_id)] == ["report.html"]
    wait_until(lambda: part.run_id)
    tags = client.get_run(part.run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["trial"]) == (again.run_id, "3")


def test_a_model_is_added_to_a_run_that_had_none(settings, start, client, tmp_path):
    data = rows()
    with start() as run:
        result = train_scratch.run(settings.scratch, data, 0, run.on_epoch_end)
        trained.save(result, tmp_path / "net")
        run.log_trained(result, tmp_path / "net", settings, example=data["X_test"][:2], with_model=False)
    assert not client.get_run(run.run_id).outputs.model_outputs
    tracking.log_model_of(settings, run.record_id)
    assert len(client.get_run(run.run_id).outputs.model_outputs) == 1
    assert client.get_run(run.run_id).info.status == "FINISHED"
    tracking.drop_model_of(run.record_id)
    assert "weights.npz" in find_record(run.record_id).artifacts()
    with pytest.raises(DataError, match="nothing that a model can be made from"):
        tracking.log_model_of(settings, run.record_id)


@pytest.mark.parametrize("uri", ["htp://host", "mlruns", "ftp://ann:secret@host/x"])
def test_an_address_that_is_none_is_a_mistake_told_at_once(settings_of, uri):
    settings = settings_of(uri=uri)
    started = tracking.start_run(settings, "scratch", inputs_of("mnist", rows(), DATA_MD5), code=CODE)
    with pytest.raises(SettingsError, match="an address like sqlite:///mlflow") as caught, started:
        pass
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_a_mistake_told_in_one_line(settings_of, tmp_path):
    (tmp_path / "a.db").write_text("not a database, but a text of some length")
    settings = settings_of(f"tracking.uri=sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(SettingsError, match=r"the file is not a database$"):
        tracking.open_store(settings)


def test_a_damaged_database_is_told_in_one_line(settings_of, tmp_path):
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(SettingsError, match=r"a\.db cannot be opened: "):
        tracking.open_store(settings_of(f"tracking.uri=sqlite:///{tmp_path / 'a.db'}"))


def test_the_next_run_says_how_many_records_wait(settings, own, tmp_path):
    uri = settings.tracking.uri
    for store in (uri, uri, "http://another"):
        Record.create(Opening("waits", store, "neural-nets"), {}, folder=tmp_path / "records")
    _, log = trainer.finish(trainer.start(own, uri=uri, epochs=3))
    assert log == [f"{uri}: 2 earlier records wait for it; `python -m pipeline.sync` brings what is missing"]


def test_a_damaged_record_of_an_earlier_run_holds_up_none(settings, client, own, tmp_path):
    uri = settings.tracking.uri
    for file in ("run.json", "state.json"):
        damaged = Record.create(Opening("damaged", uri, "neural-nets"), {}, folder=tmp_path / "records")
        (damaged.folder / file).write_text("")
    said, log = trainer.finish(trainer.start(own, uri=uri, epochs=3))
    assert_whole(client, tmp_path / "records", said["record_id"])
    assert log == [f"{uri}: 1 earlier records wait for it; `python -m pipeline.sync` brings what is missing"]


def test_the_courier_says_nothing_of_its_own(own, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.tracking.courier"],
        cwd=ROOT,
        env=own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.fixture
def orders() -> queue.Queue:
    return queue.Queue()


@pytest.fixture
def read(orders, monkeypatch):
    """Return a function that puts what is written to a courier among the orders."""

    def run(lines: str) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
        _read(orders, io.StringIO())

    return run


def test_a_record_that_cannot_be_marked_as_in_use_waits_and_the_others_are_brought(read, orders, tmp_path):
    made = Record.create(Opening("made", "http://host", "neural-nets"), {})
    folders = (tmp_path / "gone", made.folder)  # as many files are open as may be, or it was removed
    lines = [json.dumps({"open": str(folder), "uri": "http://host", "new": True}) for folder in folders]
    read("\n".join(lines))
    first, second, last = orders.queue
    assert last is None
    said = []
    own = Courier(said.append, io.StringIO())
    for order in (first, second, {"end": "gone", "alone": False}):
        own.take(order)
    assert said == [{"record": "gone", "away": f"{tmp_path}/gone/use.lock: No such file or directory"}]
    assert list(own.errands) == [made.id]
    second["in_use"].close()


def test_a_courier_that_is_left_asks_a_silent_store_once_a_round(monkeypatch):
    monkeypatch.setattr(courier, "SLOW", 0.0)  # as if it had not refused the connection at once
    monkeypatch.setattr(courier, "LAST_TRIES", (0.0, 0.0, 0.0))
    said = []
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "close", lambda: None)
    left = Courier(said.append, terminal)
    for name in ("a", "b", "c"):
        record, in_use = Record.begin(Opening(name, "http://127.0.0.1:9/left", "neural-nets"), {}, name * 32)
        left.take({"open": str(record.folder), "uri": "http://127.0.0.1:9/left", "in_use": in_use, "new": True})
        left.take({"end": record.id, "alone": True})
    left.finish()
    assert [answer["record"][0] for answer in said if "asked" in answer] == ["a", "b", "c"]
    (line,) = terminal.getvalue().splitlines()
    assert line.startswith("http://127.0.0.1:9/left: the tracking store cannot be reached (connection refused): ")


def test_a_record_that_a_store_refuses_at_once_holds_up_no_other(monkeypatch):
    asked = []

    def refuse(record, *given, **options):
        asked.append(record.id[0])
        raise ValueError("a param is too long")

    monkeypatch.setattr(courier, "deliver", refuse)
    own = Courier(lambda answer: None, io.StringIO())
    for name in ("a", "b", "c"):
        record, in_use = Record.begin(Opening(name, "http://host", "neural-nets"), {}, name * 32)
        own.take({"open": str(record.folder), "uri": "http://host", "in_use": in_use, "new": True})
        own.take({"end": record.id, "alone": False})
    own.go_round()
    assert asked == ["a", "b", "c"]
    for errand in own.errands.values():
        errand.in_use.close()


def test_a_courier_whose_training_was_killed_within_a_line_still_ends(read, orders):
    with pytest.raises(json.JSONDecodeError):
        read('{"open": "rec')
    assert list(orders.queue) == [None]


def test_a_courier_may_open_as_many_files_as_the_system_allows():
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 256), most))
    try:
        _allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
