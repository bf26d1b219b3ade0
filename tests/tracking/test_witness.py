"""Whether a store has lost what it got: not where another machine has gone on with a sweep that both know."""

from dataclasses import replace

import pytest

from pipeline.tracking.delivery import Destination, deliver
from pipeline.tracking.records import FINISHED, KILLED, RUNNING, Delivered, Opening, PointsWriter, Record
from pipeline.tracking.witness import forget, still_has

SWEEP = "a" * 32  # the id of a sweep's record, the same on each machine

pytestmark = pytest.mark.usefixtures("own_tracking")


@pytest.fixture
def to(new_store, tmp_path) -> Destination:
    return Destination(new_store(tmp_path))


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Return a function that makes a machine, by its name, the one that this process is on."""

    def move(machine: str) -> None:
        monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path / machine))

    return move


def sweep(to, best: str, points: bool = True, record_id: str = SWEEP, **state) -> Record:
    """Bring what this machine has of the sweep, with the tag of its best trial and a leaderboard."""
    record = Record.create(Opening("sweep", to.key, "neural-nets"), {}, record_id)
    if points:
        writer = PointsWriter(record)
        writer.append(1, {"best_val_loss": 0.5}, at=5)
        writer.close()
        record.write_artifact("leaderboard.csv", best.encode())
    record.change({"best.trial": best}, **state)
    deliver(record, to)
    return record


def shown(to, record, tmp_path) -> tuple[str, str, str]:
    run = to.client.get_run(record.delivered(to.key).run_id)
    (file,) = (tmp_path / "mlartifacts").glob("*/artifacts/leaderboard.csv")
    return run.info.status, run.data.tags["best.trial"], file.read_text()


@pytest.mark.parametrize("state", [{"status": KILLED, "end_time": 2_000}, {"status": RUNNING}], ids=str)
def test_a_sweep_that_another_machine_goes_on_with_is_not_lost(to, on, state):
    on("first")
    sweep(to, "3", status=FINISHED, end_time=1_000)
    on("second")
    sweep(to, "3", status=FINISHED, end_time=1_000)
    sweep(to, "17", **{"end_time": None} | state)
    on("first")
    assert still_has(to)


def test_what_is_brought_again_of_a_sweep_takes_no_place_of_what_is_newer(to, on, tmp_path):
    on("first")
    first = sweep(to, "3", status=FINISHED, end_time=1_000)
    on("second")
    sweep(to, "17", status=KILLED, end_time=2_000)
    on("first")
    forget(to.key)
    deliver(first, to)
    assert shown(to, first, tmp_path) == (KILLED, "17", "17")
    first.change({"best.trial": "20"}, end_time=3_000)
    first.write_artifact("leaderboard.csv", b"20")
    deliver(first, to)
    assert shown(to, first, tmp_path) == (FINISHED, "20", "20")


def test_a_record_without_points_and_files_is_a_witness_too(to, on):
    on("first")
    record = sweep(to, "3", points=False, status=FINISHED, end_time=1_000)
    assert still_has(to)
    record.save_delivered(to.key, Delivered("b" * 32))  # a run that only an earlier store had
    assert not still_has(to)


def test_what_was_added_to_a_record_while_the_store_was_away_is_not_lost(to, on):
    on("first")
    record = sweep(to, "3", status=FINISHED, end_time=1_000)
    writer = PointsWriter(record)
    writer.append(0, {"test_accuracy": 0.75})
    writer.close()
    assert still_has(to)
    record.save_delivered(to.key, replace(record.delivered(to.key), offset=record.points_size))
    assert not still_has(to)  # it has lost what it had got


def test_a_store_is_forgotten_as_a_whole_also_if_a_process_is_killed_in_it(to, on, monkeypatch):
    on("first")
    brought = [sweep(to, "3", record_id=letter * 32, status=FINISHED, end_time=1_000) for letter in "ab"]
    plain = Record.save_delivered

    def killed(record, *given):
        plain(record, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "save_delivered", killed)
        forget(to.key)
    sweep(to, "3", record_id="c" * 32, status=FINISHED, end_time=2_000)  # a training goes to the store made anew
    assert not still_has(to)
    forget(to.key)
    assert [record.delivered(to.key) for record in brought] == [Delivered()] * 2
    assert still_has(to)
