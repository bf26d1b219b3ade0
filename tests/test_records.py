"""The record of a run on disk: what stands in it whatever happens to the process that writes it."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.tracking.ledger import lacking
from pipeline.tracking.locks import locked
from pipeline.tracking.records import (
    FINISHED,
    KILLED,
    Delivered,
    Opening,
    PointsWriter,
    Record,
    State,
    all_records,
    find_record,
    record_of_weights,
)

ROOT = Path(__file__).resolve().parents[1]
STORE = "sqlite:////a.db"
DIES = """
import os, signal, sys
from pathlib import Path
from pipeline.tracking.records import Opening, PointsWriter, Record

record = Record.create(Opening("dies", "sqlite:////a.db", "e"), {}, "dies", Path(sys.argv[1]))
held = record.use()
points = PointsWriter(record)
for step in range(1, 1001):
    points.append(step, {"loss": 1 / step})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


def make(name="run", tags=None, **fields) -> Record:
    return Record.create(Opening(name, STORE, "neural-nets", **fields), tags or {})


def lines_of(record) -> list[tuple[int, float]]:
    return [(points.step, points.metrics["loss"]) for points, _ in record.points()]


def test_what_was_written_is_read_back():
    record = make(params={"epochs": "3"}, parent="p")
    points = PointsWriter(record)
    points.append(1, {"loss": 0.5, "val_loss": float("nan")}, at=7)
    points.close()
    record.change({"a": "b"}, status=FINISHED, end_time=8)
    again = Record(record.folder)
    assert (again.opening.name, again.opening.params, again.opening.parent) == ("run", {"epochs": "3"}, "p")
    assert (again.state.status, again.state.end_time, again.state.tags) == (FINISHED, 8, {"a": "b"})
    ((found, behind),) = again.points()
    assert (found.time, found.step, found.metrics["loss"]) == (7, 1, 0.5)
    assert found.metrics["val_loss"] != found.metrics["val_loss"]
    assert behind == again.points_size


@pytest.mark.parametrize(
    "cut",
    [b'{"time": 1, "step": 3, "metr', b'{"time": 1, "step": 3, "metrics": {"loss": 0.1}}', b"\xff\x00", b"{", b"[1]"],
)
def test_a_cut_last_line_is_no_line_and_the_next_one_is_whole(cut):
    record = make()
    points = PointsWriter(record)
    points.append(1, {"loss": 0.5})
    points.append(2, {"loss": 0.25})
    points.close()
    with (record.folder / "metrics.jsonl").open("ab") as file:
        file.write(cut)
    assert lines_of(record) == [(1, 0.5), (2, 0.25)]
    again = PointsWriter(record)  # as evaluate does after a training that was killed
    again.append(0, {"loss": 0.125})
    again.close()
    assert lines_of(record)[:2] == [(1, 0.5), (2, 0.25)]
    assert lines_of(record)[-1] == (0, 0.125)


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"time": 1}\n', b'{"time":1,"step":1,"metrics":[2]}\n', b"\n"])
def test_a_line_that_is_none_hides_no_other(line):
    record = make()
    points = PointsWriter(record)
    points.append(1, {"loss": 0.5})
    with (record.folder / "metrics.jsonl").open("ab") as file:
        file.write(line)
    points.append(2, {"loss": 0.25})
    points.close()
    assert lines_of(record) == [(1, 0.5), (2, 0.25)]


def test_points_go_on_from_where_one_has_read_to():
    record = make()
    points = PointsWriter(record)
    points.append(1, {"loss": 0.5})
    ((_, behind),) = record.points()
    points.append(2, {"loss": 0.25})
    points.close()
    assert [found.step for found, _ in record.points(behind)] == [2]


def test_a_process_that_is_killed_leaves_every_point_and_is_known_to_be_dead(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", DIES, str(folder)], env=environment, check=False)
    record = find_record("dies")
    assert lines_of(record) == [(step, 1 / step) for step in range(1, 1001)]
    assert not record.is_in_use
    assert record.end_if_dead()
    assert record.state.status == KILLED
    assert record.state.tags["error"].startswith(f"its process ({record.opening.pid} on ")
    assert record.state.end_time >= record.opening.start_time
    assert not record.end_if_dead()


def test_a_record_whose_writer_lives_is_not_ended():
    record = make()
    with record.use():
        assert not record.end_if_dead()
    assert record.end_if_dead()


def test_a_record_that_another_ends_meanwhile_is_not_ended_again():
    record, ended = make(), []
    other = threading.Thread(target=lambda: ended.append(record.end_if_dead()))
    with locked(record.folder / "state.lock"):
        other.start()
        time.sleep(0.2)  # in which it looks, if it looks before it has the lock
        (record.folder / "state.json").write_text(json.dumps(asdict(State(FINISHED, end_time=1))))
    other.join()
    assert ended == [False]
    assert record.state == State(FINISHED, end_time=1)


def test_a_full_disk_delays_points_and_loses_none():
    record = make()
    points = PointsWriter(record)
    real = points._file
    with Path("/dev/full").open("wb", buffering=0) as points._file:
        points.append(1, {"loss": 0.5})
        assert not points.flush()
    points._file = real
    points.append(2, {"loss": 0.25})
    points.close()
    assert lines_of(record) == [(1, 0.5), (2, 0.25)]


def test_a_folder_without_its_last_file_is_no_record(folder):
    make()
    (folder / "half").mkdir()
    (folder / "half/state.json").write_text("{}")
    assert len(all_records()) == 1
    with pytest.raises(DataError, match="no such record of a run"):
        find_record("half")


def test_half_written_artifacts_are_none():
    record = make()
    record.write_artifact("pictures/a.png", b"png")
    record.write_artifact(".hydra/config.yaml", b"whole")
    (record.folder / "artifacts/.weights.npz.x0_abcde").mkdir()
    (record.folder / "artifacts/.weights.npz.x0_abcde/weights.npz").write_bytes(b"half")
    assert list(record.artifacts()) == [".hydra/config.yaml", "pictures/a.png"]


def test_artifacts_are_listed_beside_a_writer():
    record = make()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            record.write_artifact("pictures/a.png", b"png")
            (record.folder / "artifacts" / "pictures" / "passing").touch()
            (record.folder / "artifacts" / "pictures" / "passing").unlink()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [set(record.artifacts()) for _ in range(500)]
    finally:
        ended.set()
        writer.join()
    assert set().union(*found) <= {"pictures/a.png", "pictures/passing"}


def test_points_that_a_full_disk_has_lost_are_told_by_their_file():
    record = make()
    points = PointsWriter(record)
    points._file.close()
    points._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 – close is what is tested
    points.append(1, {"loss": 0.5})
    with pytest.raises(OSError, match="No space left on device") as caught:
        points.close()
    assert caught.value.filename == str(record.folder / "metrics.jsonl")


def test_a_record_waits_until_all_of_it_is_there_and_again_after_a_change():
    record = make()
    record.change(status=FINISHED, end_time=1)
    assert record.waits_for(STORE)
    record.save_delivered(STORE, Delivered("id", whole=record.fingerprint()))
    assert not record.waits_for(STORE)
    assert record.waits_for("another")
    record.write_artifact("late.txt", b"late")
    assert record.waits_for(STORE)


def test_the_newest_run_of_the_weights_is_found_and_no_reproduction():
    first, second = make(tags={"weights_sha256": "w"}), make(tags={"weights_sha256": "w"})
    again = make(tags={"weights_sha256": "w", "reproduces": "x"})
    for at, record in enumerate((first, second, again)):
        os.utime(record.folder / "run.json", ns=(at, at))
    assert record_of_weights("w", STORE).id == second.id
    assert record_of_weights("v", STORE) is None
    assert record_of_weights("w", "another") is None


@pytest.mark.parametrize("file", ["run.json", "state.json"])
@pytest.mark.parametrize("content", [b"", b'{"name": "ru', b"[1]", b"\xff\xfe", b'{"unknown": 1}'])
def test_a_damaged_record_is_told_by_its_file_and_hides_no_other(file, content, caplog):
    whole, damaged = make(tags={"weights_sha256": "w"}), make(tags={"weights_sha256": "w"})
    (damaged.folder / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{damaged.folder / file}: is damaged"):
        _ = (damaged.opening, damaged.state)
    assert damaged.waits_for(STORE)
    assert {record.id for record in lacking(STORE)} == {whole.id, damaged.id}
    assert record_of_weights("w", STORE).id == whole.id
    assert len(caplog.messages) == (file == "state.json")


def test_a_damaged_note_of_what_was_delivered_is_none():
    record = make()
    for content in (b"", b"[1]", b'{"sqlite:////a.db": {"ended": 1}}', b'{"sqlite:////a.db": {"ended": [], "x": 1}}'):
        (record.folder / "delivered.json").write_bytes(content)
        assert record.delivered(STORE) == Delivered()
        record.save_delivered(STORE, Delivered("id"))
        assert record.delivered(STORE).run_id == "id"


def test_what_a_power_cut_must_not_take_is_on_the_disk_before_it_takes_its_place(monkeypatch):
    seen = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: seen.append("on disk") or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda self, new: seen.append(Path(new).name) or rename(self, new))
    record = make()
    assert seen == ["on disk", "state.json", "on disk", "run.json"]
    record.change({"a": "b"})
    assert seen[4:] == ["on disk", "state.json"]


def test_a_tag_holds_no_password():
    record = make()
    record.change({"error": "no answer from http://ann:secret@host:5000/x?token=abc"})
    text = "".join(path.read_text() for path in record.folder.rglob("*.json"))
    assert "secret" not in text
    assert "abc" not in text
    assert (
        json.loads((record.folder / "state.json").read_text())["tags"]["error"] == "no answer from http://host:5000/x"
    )
