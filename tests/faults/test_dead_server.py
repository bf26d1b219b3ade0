"""A tracking server that is killed at random moments of a training, and comes back only when the training is over."""

import os
import random
import sys
import time
from pathlib import Path

import pytest
import trainer
from servers import Server
from whole import assert_whole, lost_points, runs_of

from pipeline.tracking.records import all_records
from pipeline.tracking.store import PATIENCE

SEED = 0
FEW, MANY = 2, 20
EPOCHS, PAUSE = 150, 0.01  # a training of 1.5 s and more, of which the server sees the beginning

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.mark.parametrize("n_faults", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_trainings_survive_a_server_that_is_killed_and_no_point_is_lost(
    n_faults, call, environment, tmp_path, capsys
):
    import mlflow

    environment = environment | PATIENCE | {"PIPELINE_RECORDS": str(tmp_path / "records")}
    server = Server(tmp_path, environment)
    rng = random.Random(SEED)
    reference, _ = trainer.finish(trainer.start(environment, uri="http://127.0.0.1:9", epochs=EPOCHS, pause=PAUSE))
    client = mlflow.MlflowClient(server.uri)
    survived, slowest = 0, 0.0
    try:
        for _ in range(n_faults):
            server.start()
            process = trainer.start(environment, uri=server.uri, epochs=EPOCHS, pause=PAUSE)
            time.sleep(rng.uniform(0.5, 5.0))
            server.kill()
            said, log = trainer.finish(process)
            assert len(log) <= 1, log
            assert said["weights_sha256"] == reference["weights_sha256"]
            assert said["history"] == reference["history"]
            survived += 1
            slowest = max(slowest, said["seconds"] / reference["seconds"])
        server.start()
        command = (sys.executable, "-m", "pipeline.sync", "--to", server.uri)
        call(Path(__file__).resolve().parents[2], *command, env=environment)
        records = all_records(tmp_path / "records")
        assert len(runs_of(client)) == len(records) == n_faults + 1
        lost = sum(lost_points(client, assert_whole(client, tmp_path / "records", one.id), one) for one in records)
        assert lost == 0
    finally:
        server.kill()
    with capsys.disabled():
        os.write(
            1,
            f"\nserver killed: {n_faults} faults injected, {survived} trainings survived, {lost} points lost; "
            f"slowest training {slowest:.3f} of the undisturbed one\n".encode(),
        )
