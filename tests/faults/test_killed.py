"""Trainings and `pipeline.sync` killed with -9: MLflow ends with all that is on disk, once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import trainer
from tracked import wait_until
from whole import assert_whole, lost_points, runs_of

from pipeline.tracking.records import Record, all_records

SEED = 0
ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 200
MANY = 20
PATIENT = 300  # seconds; a courier takes 2 on a quiet machine

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture
def own(environment, tmp_path):
    return environment | {"PIPELINE_RECORDS": str(tmp_path / "records")}


@pytest.fixture
def store(new_store, tmp_path):
    return new_store(tmp_path)


@pytest.mark.parametrize("n_faults", [1, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_is_ended_in_mlflow_with_all_its_points(n_faults, store, own, tmp_path, count):
    import mlflow

    client, rng = mlflow.MlflowClient(store), random.Random(SEED)
    faults = count("trainings killed (-9); the courier ends their runs", "points")
    known: set[str] = set()
    for _ in range(n_faults):
        epoch = rng.randrange(EPOCHS)
        process = trainer.start(own, uri=store, epochs=EPOCHS, pause=0.01, dies_in=epoch)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        faults.injected += 1
        (record,) = (record for record in all_records(tmp_path / "records") if record.id not in known)
        known.add(record.id)
        wait_until(lambda record=record: record.state.end_time and not record.waits_for(store), PATIENT)
        (run,) = runs_of(client, record.id)
        assert run.info.status == "KILLED"
        assert "died before it ended the run" in run.data.tags["error"]
        assert len(list(record.points())) == epoch + 1
        faults.lost += lost_points(client, run.info.run_id, record)
        assert faults.lost == 0
        faults.survived += 1


@pytest.fixture
def waiting(own, tmp_path):
    """Return a function that makes so many whole records that no store has: of one training, and copies of it."""

    def make(n: int) -> list[Record]:
        trainer.finish(trainer.start(own, uri="http://127.0.0.1:9", epochs=30))
        (first,) = all_records(tmp_path / "records")
        wait_until(lambda: not first.is_in_use, PATIENT)
        (first.folder / "delivered.json").unlink(missing_ok=True)
        for _ in range(n - 1):
            shutil.copytree(first.folder, first.folder.with_name(uuid.uuid4().hex))
        return all_records(tmp_path / "records")

    return make


def notes(records: list[Record]) -> list[bytes]:
    """Return what is noted as delivered."""
    paths = [record.folder / "delivered.json" for record in records]
    return [path.read_bytes() for path in paths if path.exists()]


def is_partly_delivered(record: Record, store: str) -> bool:
    return record.delivered(store).run_id is not None and record.waits_for(store)


@pytest.mark.parametrize(("n_faults", "n_records"), [(2, 3), pytest.param(MANY, 40, marks=pytest.mark.slow)])
def test_a_sync_killed_half_way_and_repeated_doubles_nothing(n_faults, n_records, waiting, store, own, call, count):
    import mlflow

    client, rng = mlflow.MlflowClient(store), random.Random(SEED)
    faults = count("pipeline.sync killed (-9) while it delivers, and repeated", "points")
    records = waiting(n_records)
    command = [sys.executable, "-m", "pipeline.sync", "--to", store]
    n_partly = 0
    again: list[str] = []
    while faults.injected < n_faults:
        before = notes(records)
        process = subprocess.Popen(
            [*command, *again], cwd=ROOT, env=own, start_new_session=True, stderr=subprocess.DEVNULL
        )
        while notes(records) == before and process.poll() is None:
            time.sleep(0.001)
        if faults.injected:  # the first kill comes as soon as anything is noted
            time.sleep(rng.uniform(0, 0.5))
        again = ["--again"] if process.poll() is not None else []  # all is delivered by now: from the start
        if again:
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        faults.injected += 1
        n_partly += any(is_partly_delivered(record, store) for record in records)
        faults.note = f"{n_partly} of them with a record half delivered"
    if n_faults == MANY:  # of few, all may have come between two records
        assert n_partly > 0
    call(ROOT, *command, env=own)
    assert len(runs_of(client)) == n_records
    for record in records:
        run_id = assert_whole(client, record.folder.parent, record.id)
        faults.lost += lost_points(client, run_id, record)
    assert faults.lost == 0
    faults.survived = faults.injected
