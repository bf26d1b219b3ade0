"""Where runs are kept: SQLite in the project unless the settings or the environment say otherwise."""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from pipeline.config import Settings

SOURCE_ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = (
    "Each run is one training of one net on one dataset. `loss`, `accuracy`, `val_loss`, `val_accuracy` "
    "have one point an epoch; `test_*` are measured once, on rows that no training saw. Params are the "
    "settings that the run used: the net's own by their bare names, those of its data by section."
)

log = logging.getLogger(__name__)


def store_root() -> Path:
    """Return the folder of the default store: the project, also from DVC's copies of it under .dvc/tmp/exps."""
    return Path(os.environ.get("DVC_ROOT") or SOURCE_ROOT)


def tracking_uri(settings: Settings) -> str:
    """Return the address of the store: `tracking.uri`, else MLFLOW_TRACKING_URI, else SQLite in the project."""
    return settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store_root() / 'mlflow.db'}"


def open_store(settings: Settings) -> str:
    """Point MLflow at the store, made on first use by one process at a time, and return the experiment's id."""
    import mlflow
    from filelock import FileLock

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    name = settings.tracking.experiment
    if not uri.startswith("sqlite:///"):
        experiment = client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else client.create_experiment(name))
    database = Path(uri.removeprefix("sqlite:///"))
    with FileLock(f"{database}.lock"):
        if not database.exists():
            log.info("%s: made for MLflow's runs", database)
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        experiment = client.get_experiment_by_name(name)
        if experiment:
            return str(experiment.experiment_id)
        artifacts = (database.parent / "mlartifacts").as_uri()
        return str(client.create_experiment(name, artifacts, tags={"mlflow.note.content": DESCRIPTION}))
