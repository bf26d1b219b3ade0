"""A store and records/ of many runs, made through public calls: what `bench.scale` measures in."""

import time
import uuid
from dataclasses import replace
from pathlib import Path

import yaml

from bench.sweeps import ROOT
from pipeline import compose, config, tracking
from pipeline.address import redact
from pipeline.config import Settings
from pipeline.tracking import ledger
from pipeline.tracking.records import FINISHED, Delivered, Opening, PointsWriter, Record
from pipeline.tracking.store import open_experiment

N_STEPS = 25
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")  # 100 points a run
N_TAGS = 20
NUMBER = "bench.number"  # tag of a run: how many were made before it
FILES = ("settings.yaml", "weights.npz", "history.csv", "summary.txt", "net.json", "per_class.json")


def settings_of(uri: str) -> Settings:
    """Return the settings of a short training that is kept in this store, whose address may hold a password."""
    settings = config.parse(yaml.safe_load(compose.run(ROOT / "conf", ["net=scratch", "scratch.epochs=2"])))
    return replace(settings, tracking=replace(settings.tracking, uri=uri))


def fill(uri: str, n_runs: int) -> None:
    """Bring a store to so many runs like this project's, with MLflow's client; those that are there stay."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    settings = settings_of(uri)
    experiment_id = open_experiment(uri, settings.tracking.experiment)
    client = MlflowClient(uri)
    newest = client.search_runs([experiment_id], f"tags.`{NUMBER}` != ''", max_results=1)
    first = int(newest[0].data.tags[NUMBER]) + 1 if newest else 0
    params = [Param(name, str(value)) for name, value in tracking.run_params(settings, "scratch").items()]
    tags = [RunTag(f"lineage.{i}", uuid.uuid4().hex * 2) for i in range(N_TAGS)]
    datasets = [
        DatasetInput(
            Dataset(name=f"synthetic-{context}", digest="d" * 32, source_type="local", source="{}"),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for context in ("training", "validation", "testing")
    ]
    moments = [(name, step) for step in range(1, N_STEPS + 1) for name in METRICS]
    begun = time.time_ns() // 1_000_000 - 1000 * n_runs  # milliseconds since 1970: a run a second
    for i in range(first, n_runs):
        at = begun + 1000 * i
        run_id = client.create_run(experiment_id, at, {NUMBER: str(i)}, f"scratch synthetic seed={i}").info.run_id
        points = [Metric(name, (i % 97) / step, at + step, step) for name, step in moments]
        client.log_batch(run_id, points, params, tags)
        client.log_inputs(run_id, datasets)
        client.set_terminated(run_id, FINISHED, at + N_STEPS)


def keep_records(folder: Path, uri: str, n: int) -> None:
    """Write so many records of which a store has all, as the courier leaves them."""
    key = redact(uri)
    for i in range(n):
        record = Record.create(Opening(f"seed={i}", key, "neural-nets", {"seed": str(i)}), {}, folder=folder)
        points = PointsWriter(record)
        for step in range(1, N_STEPS + 1):
            points.append(step, dict.fromkeys(METRICS, 1 / step))
        points.close()
        for name in FILES:
            record.write_artifact(name, bytes(1000))
        record.change(status=FINISHED, end_time=1)
        stamp, whole = ledger.stamp(str(record.folder)), record.fingerprint()
        has = Delivered(uuid.uuid4().hex, record.points_size, artifacts=record.artifacts(), whole=whole)
        record.save_delivered(key, has)
        ledger.note(record, key, stamp)
