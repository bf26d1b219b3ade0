"""A tracking server that is killed at random moments of a training, and comes back only when the training is over."""

import random
import statistics
import sys
import time
from pathlib import Path

import pytest
import trainer
from servers import Server
from whole import assert_whole, lost_points, runs_of

from pipeline.tracking.records import RUNNING, Record, all_records

SEED = 0
FEW, MANY = 2, 20
ROOT = Path(__file__).resolve().parents[2]
N_EPOCHS = 400
SHORT, LONG = 10_000, 30_000  # rows: 3 s and 9 s of computing on a quiet machine; the courier begins after 2 s
LATEST = 0.9  # of the epochs: the kill

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


def record_in(folder: Path, known: set[str]) -> Record | None:
    """Return the record of the training that has just begun, once it is there."""
    return next((record for record in all_records(folder) if record.id not in known), None)


def watch(folder: Path, known: set[str], epoch: int, process) -> Record | None:
    """Return the record of a training as soon as it has so many epochs; None if it never had."""
    record = None
    while process.poll() is None:
        record = record or record_in(folder, known)
        points = record.folder / "metrics.jsonl" if record else None
        if points and points.exists() and points.read_bytes().count(b"\n") >= epoch:
            return record
        time.sleep(0.02)
    return None


def kill_at(server: Server, folder: Path, known: set[str], epoch: int, process) -> Record | None:
    """Kill the server as soon as the record of a training has so many epochs.

    Return the record; None if the training had ended when the server was dead.
    """
    record = watch(folder, known, epoch, process)
    server.kill()
    return record if record and record.state.status == RUNNING else None


def compared(disturbed: list[dict], undisturbed: list[dict]) -> str:
    """Return how long trainings took whose server died, beside those whose server lived: medians, in seconds."""
    texts = []
    for what, name in (
        ("seconds", "training"),
        ("processor_seconds", "of which the processor's"),
        ("seconds_with_its_record", "with its record's start and end"),
    ):
        with_fault, without = (
            statistics.median(said[what] for said in all_of) for all_of in (disturbed, undisturbed)
        )
        texts.append(f"{name} {with_fault:.2f} s, undisturbed {without:.2f} s ({with_fault / without - 1:+.1%})")
    return "; ".join(texts)


@pytest.mark.parametrize("n_faults", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_trainings_survive_a_server_that_is_killed_and_no_point_is_lost(n_faults, call, environment, tmp_path, count):
    import mlflow

    folder = tmp_path / "records"
    environment = environment | {"PIPELINE_RECORDS": str(folder)}
    faults = count("tracking server killed (-9) during a training, and away until its end", "points")
    server = Server(tmp_path, environment)
    client = mlflow.MlflowClient(server.uri)
    rng = random.Random(SEED)
    disturbed: list[dict] = []
    undisturbed: list[dict] = []
    n_begun = 0
    is_full = n_faults == MANY
    work = {"epochs": N_EPOCHS, "n_rows": LONG if is_full else SHORT}
    try:
        while faults.injected < n_faults:
            server.start()
            epoch = round(rng.uniform(0, LATEST) * N_EPOCHS)
            if len(undisturbed) < (n_faults if is_full else 1):
                known = {record.id for record in all_records(folder)}
                process = trainer.start(environment, uri=server.uri, **work)
                watch(folder, known, epoch, process)  # which takes time, as it does below
                undisturbed.append(trainer.finish(process)[0])
            known = {record.id for record in all_records(folder)}
            process = trainer.start(environment, uri=server.uri, **work)
            record = kill_at(server, folder, known, epoch, process)
            if record:
                faults.injected += 1
                n_begun += record.delivered(server.uri).offset > 0
            said, log = trainer.finish(process)
            told = [line for line in log if "earlier records wait" not in line]  # of the trainings before
            assert len(told) == 1 or (not told and not record), log
            for what in ("weights_sha256", "history"):
                assert said[what] == undisturbed[0][what]
            if record:
                disturbed.append(said)
                faults.survived += 1
                faults.note = f"in {n_begun} the server had points already; {compared(disturbed, undisturbed)}"
        assert n_begun >= n_faults // 2 or not is_full  # else it was not killed in the middle
        server.start()
        call(ROOT, sys.executable, "-m", "pipeline.sync", "--to", server.uri, env=environment)
        records = all_records(folder)
        assert len(runs_of(client)) == len(records) >= 1 + n_faults
        for record in records:
            (run,) = runs_of(client, record.id)
            faults.lost += lost_points(client, run.info.run_id, record)
            assert_whole(client, folder, record.id)
        assert faults.lost == 0
    finally:
        server.kill()
