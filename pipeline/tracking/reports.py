"""What an evaluation has found, added to the run that made the net: by its record, or in the store."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.address import reason, redact
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.delivery import Destination
from pipeline.tracking.pages import server, shown_at
from pipeline.tracking.records import now, record_of_weights
from pipeline.tracking.run import PER_CLASS_FILE, Run, per_class_text
from pipeline.tracking.store import open_store, say_away, tracking_uri
from pipeline.tracking.table import find_experiment

log = logging.getLogger(__name__)


def add_report(
    settings: Settings,
    weights_sha256: str,
    metrics: Mapping[str, float],
    images: Mapping[str, bytes],
    per_class: Mapping[str, Mapping[str, float]] | None = None,
) -> str | None:
    """Add a report to the newest run that has made these weights, and return its MLflow id.

    It is looked for among the records on this disk, then in the store; None where there is no such run, or where the
    store cannot be reached: it is said in one line.
    """
    record = record_of_weights(weights_sha256, redact(tracking_uri(settings)))
    if record:
        run = Run(record, settings)
        run.log_report(metrics, images, per_class)
        run.let_go(wait=True)
        return run.run_id
    from mlflow.exceptions import MlflowException

    try:
        run_id = find_run(settings, weights_sha256)
        if run_id is None:
            log.warning("%s...: no run has made these weights; their figures stay local", weights_sha256[:12])
        else:
            _add_to(Destination(tracking_uri(settings)), run_id, metrics, images, per_class)
    except (SettingsError, MlflowException) as error:
        say_away(tracking_uri(settings), reason(error), "its figures stay local")
        return None
    return run_id


def _add_to(
    to: Destination,
    run_id: str,
    metrics: Mapping[str, float],
    images: Mapping[str, bytes],
    per_class: Mapping[str, Mapping[str, float]] | None,
) -> None:
    """Add a report to a run of which this disk has no record: another machine's."""
    from mlflow.entities import Metric

    to.write("log_batch", run_id, metrics=[Metric(name, value, now(), 0) for name, value in metrics.items()])
    with tempfile.TemporaryDirectory() as folder:
        for name, png in images.items():
            (Path(folder) / f"{name}.png").write_bytes(png)
        to.client.log_artifacts(run_id, folder, "pictures")
    if per_class is not None:
        to.client.log_text(run_id, per_class_text(per_class), PER_CLASS_FILE)


def find_run(settings: Settings, weights_sha256: str) -> str | None:
    """Return the id of the newest run that has made these weights and is no reproduction of another; or None."""
    import mlflow

    experiment_id = open_store(settings)  # before the client is made: it takes the address that is set by then
    found = mlflow.MlflowClient().search_runs([experiment_id], f"tags.weights_sha256 = '{weights_sha256}'")
    return next((str(run.info.run_id) for run in found if "reproduces" not in run.data.tags), None)


def page_of_weights(settings: Settings, digests: Sequence[str]) -> str | None:
    """Return where MLflow shows the runs that have made these weights, or that it does not answer; None: no such run.

    Args:
        settings: those of tracking are read.
        digests: SHA-256 of each net's weights.
    """
    from mlflow.exceptions import MlflowException

    try:
        if find_experiment(settings) is None:
            return None
        found = [find_run(settings, digest) for digest in digests]
        run_ids = [run_id for run_id in found if run_id]
        return shown_at(settings, run_ids) if run_ids else None
    except (MlflowException, SettingsError):  # of MLflow: its text may hold a password
        return f"not known, {server(settings)} does not answer"
