"""What is asked of a store and of the disk does not grow with the runs and trials there: it is counted, not timed."""

import io
from contextlib import contextmanager
from pathlib import Path

import pytest
from tracked import CODE, DATA_MD5, rows

from bench.filling import fill
from pipeline import tracking
from pipeline.lineage import inputs_of
from pipeline.study import board, report, trial, worker
from pipeline.study.board import Goal
from pipeline.study.space import Param
from pipeline.study.trial import COMPLETE, FAILED, Outcome, Row
from pipeline.tracking.delivery import Destination, deliver
from pipeline.tracking.pages import run_page
from pipeline.tracking.records import FINISHED, Opening, PointsWriter, Record
from pipeline.tracking.reports import find_run
from pipeline.tracking.sender import Sender

FEW, MANY = 12, 40

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture(scope="module")
def stores(own_tracking, new_store, tmp_path_factory):
    """Return the addresses of a store with few runs and of one with many."""
    found = []
    for n in (FEW, MANY):
        found.append(new_store(tmp_path_factory.mktemp(f"runs{n}")))
        fill(found[-1], n)
    return found


@contextmanager
def counted():
    """Yield a list that gets the SQL statements of this process."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    statements = []

    def add(connection, cursor, statement, parameters, context, executemany):
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", add)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", add)


def n_statements(work) -> int:
    with counted() as statements:
        work()
    assert statements
    return len(statements)


def ended_record(folder, store) -> Record:
    made = Record.create(Opening("made", store, "neural-nets", {"net": "scratch"}), {"a": "tag"}, folder=folder)
    points = PointsWriter(made)
    points.append(1, {"loss": 0.5, "val_loss": 0.6})
    points.close()
    made.write_artifact("net.json", b"{}")
    made.change(status=FINISHED, end_time=1)
    return made


def test_a_run_is_brought_by_as_many_statements_in_a_full_store_as_in_an_empty_one(stores, tmp_path):
    counts = []
    for store in stores:
        to = Destination(store)
        deliver(ended_record(tmp_path, store), to)  # what only the first one asks
        record = ended_record(tmp_path, store)
        counts.append(n_statements(lambda: deliver(record, to, is_new=True)))  # noqa: B023
    assert counts[0] == counts[1]


def test_a_new_run_is_not_searched_for_and_one_whose_delivery_broke_off_is(stores, tmp_path, monkeypatch):
    to = Destination(stores[0])
    searched = []
    plain = to.client.search_runs
    monkeypatch.setattr(
        to.client, "search_runs", lambda *given, **more: searched.append(given) or plain(*given, **more)
    )
    first, second = ended_record(tmp_path, to.key), ended_record(tmp_path, to.key)
    deliver(first, to, is_new=True)
    assert searched == []
    deliver(second, to)
    assert len(searched) == 1


def test_the_courier_looks_for_a_new_run_only_after_a_try_that_failed(stores, tmp_path, monkeypatch):
    from pipeline.tracking import courier

    said, tries = [], []

    def breaks_off(record, to, on_progress, *, is_new):
        tries.append(is_new)
        raise TimeoutError("on purpose")

    monkeypatch.setattr(courier, "deliver", breaks_off)
    own = courier.Courier(said.append, io.StringIO())
    record = ended_record(tmp_path, stores[0])
    own.take({"open": str(record.folder), "uri": stores[0], "new": True, "in_use": record.use()})
    own.go_round()
    own.errands[record.id].due = True
    own.go_round()
    own.errands[record.id].in_use.close()
    assert tries == [True, False]


def test_a_run_that_starts_is_told_as_new_and_one_that_is_opened_again_is_not(stores, settings_of, monkeypatch):
    sent = []
    plain = Sender._send
    monkeypatch.setattr(Sender, "_send", lambda self, order: sent.append(order) or plain(self, order))
    settings = settings_of("scratch.dataset=mnist", uri=stores[0])
    with tracking.start_run(settings, "scratch", inputs_of("mnist", rows(), DATA_MD5), code=CODE):
        pass
    tracking.open_parent(settings, "a" * 32, "parent").end()
    assert [order["new"] for order in sent if "open" in order] == [True, False]


@pytest.mark.parametrize(
    "ask",
    [
        lambda settings: tracking.runs(10, settings=settings),
        lambda settings: find_run(settings, "0" * 64),
    ],
    ids=["the newest runs", "a run by its weights"],
)
def test_a_question_is_as_many_statements_in_a_full_store(stores, settings_of, ask):
    settings = [settings_of(uri=store) for store in stores]
    for one in settings:
        ask(one)
    counts = [n_statements(lambda: ask(one)) for one in settings]  # noqa: B023
    assert counts[0] == counts[1]


def test_a_page_of_twelve_runs_is_as_many_statements_as_one_of_two(stores, settings_of):
    settings = settings_of(uri=stores[0])
    ids = list(tracking.runs(FEW, settings=settings).index)
    assert len(ids) == FEW
    run_page(settings, ids[:2])
    assert n_statements(lambda: run_page(settings, ids[:2])) == n_statements(lambda: run_page(settings, ids))


def trials(n: int) -> list[Row]:
    rows = [Row(i, {"a": str(i)}, Outcome(COMPLETE, (), float((i * 37) % n))) for i in range(n)]
    rows[3] = Row(3, {"a": "3"}, Outcome(FAILED, (), error="on purpose"))
    return rows


def test_a_leaderboard_is_written_in_one_pass_over_the_trials(monkeypatch):
    passes = []
    plain = report.keys_of
    monkeypatch.setattr(report, "keys_of", lambda rows: passes.append(1) or plain(rows))
    goal = Goal("val_loss", "minimize", 200)
    lines = report._as_csv(trials(200), goal).splitlines()
    assert len(lines) == 201
    assert len(passes) == 1


def test_the_best_so_far_is_compared_with_one_trial_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setenv("PIPELINE_RECORDS", str(tmp_path))
    Record.create(Opening("sweep", "store", "neural-nets"), {}, "f" * 32)
    compared, told = [], []
    plain = report.best
    monkeypatch.setattr(report, "best", lambda rows, direction: compared.append(len(rows)) or plain(rows, direction))

    class Parent:
        def on_epoch_end(self, epoch, points):
            told.append((epoch + 1, points))

    rows = trials(50)
    sweep = report.Sweep(None, "f" * 32, "sweep", {}, [], Goal("val_loss", "minimize", 50), 0)
    report._add_history(sweep, Parent(), rows)
    assert max(compared) == 2
    least = [min(row.outcome.value for row in rows[: i + 1] if row.outcome.value is not None) for i in range(50)]
    assert told == [
        (i, {"val_loss": row.outcome.value, "best_val_loss": least[i]}) for i, row in enumerate(rows) if i != 3
    ]


def test_the_best_of_trials_is_the_first_of_their_ranking():
    rows = trials(50)
    for direction in ("minimize", "maximize"):
        assert board.best(rows, direction) == board.ranked(rows, direction)[0]
    assert board.best([rows[3]], "minimize") is None


def test_an_outcome_is_read_once_however_often_the_board_is_shown(monkeypatch, tmp_path):
    import optuna

    study = optuna.create_study()
    param = Param("a", "interval(0, 1)", low=0.0, high=1.0)
    for i in range(20):
        outcome = {"state": COMPLETE, "overrides": [], "value": float(i)}
        study.add_trial(
            optuna.trial.create_trial(
                value=float(i),
                params={"a": 0.5},
                distributions={"a": param.distribution()},
                user_attrs={"slot": i, "outcome": outcome},
            )
        )
    read = []
    plain = trial.outcome_from
    monkeypatch.setattr(trial, "outcome_from", lambda kept: read.append(1) or plain(kept))
    search = worker.Search("s", None, (), [param], None, {}, "minimize", Path(tmp_path), None, None)
    first = worker.rows(search, study)
    assert worker.rows(search, study) == first
    assert [row.number for row in first] == list(range(20))
    assert len(read) == 20
