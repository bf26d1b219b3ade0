"""A look at what a store lacks reads no record that the store has whole, and misses none that has changed since."""

import pytest

from pipeline.tracking import ledger, records
from pipeline.tracking.records import FINISHED, Delivered, Opening, PointsWriter, Record

STORE = "http://store"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "records"


@pytest.fixture
def make(folder):
    def record(name="made") -> Record:
        made = Record.create(Opening(name, STORE, "neural-nets"), {}, folder=folder)
        made.write_artifact("pictures/curve.png", b"old")
        made.change(status=FINISHED, end_time=1)
        return made

    return record


@pytest.fixture
def n_read(monkeypatch):
    """Return a list of the files of records that have been read as JSON."""
    read = []
    plain = records._read
    monkeypatch.setattr(records, "_read", lambda path, kind: read.append(path) or plain(path, kind))
    return read


def bring(record: Record) -> None:
    """Do what `deliver` does once the store has all of a record."""
    stamp = ledger.stamp(str(record.folder))
    record.save_delivered(STORE, Delivered("id", whole=record.fingerprint()))
    ledger.note(record, STORE, stamp)


def lacking(folder, store=STORE) -> set[str]:
    return {record.id for record in ledger.lacking(store, folder)}


def test_no_record_that_the_store_has_whole_is_read(make, folder, n_read):
    for _ in range(5):
        bring(make())
    waits = make()
    waits.save_delivered(STORE, Delivered("id"))
    n_read.clear()
    assert lacking(folder) == {waits.id}
    assert {path.parent for path in n_read} == {waits.folder}


def test_another_store_lacks_all_of_them(make, folder):
    made = make()
    bring(made)
    assert lacking(folder) == set()
    assert lacking(folder, "http://another") == {made.id}


def change_state(record: Record) -> None:
    record.change({"late": "tag"})


def add_points(record: Record) -> None:
    points = PointsWriter(record)
    points.append(1, {"loss": 0.5})
    points.close()


def replace_picture(record: Record) -> None:
    record.write_artifact("pictures/curve.png", b"new")


@pytest.mark.parametrize("change", [change_state, add_points, replace_picture])
def test_what_is_changed_afterwards_is_lacking_again(make, folder, change):
    made = make()
    bring(made)
    change(made)
    assert lacking(folder) == {made.id}


def test_without_the_ledger_the_records_themselves_are_asked_and_it_is_made_again(make, folder, n_read):
    bring(make())
    for file in (folder / ledger.FOLDER).iterdir():
        file.unlink()
    assert lacking(folder) == set()
    n_read.clear()
    assert lacking(folder) == set()
    assert n_read == []


def test_a_line_that_was_cut_costs_a_look_and_no_record(make, folder):
    first, second = make(), make()
    bring(first)
    (file,) = (folder / ledger.FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    bring(second)
    assert lacking(folder) == set()
    waits = make()
    assert lacking(folder) == {waits.id}


def test_what_is_no_record_is_passed_over(make, folder):
    made = make()
    (folder / "notes.txt").write_text("mine")
    (folder / "begun").mkdir()
    assert lacking(folder) == {made.id}
    assert lacking(folder / "none") == set()
