"""Where runs are kept: SQLite in the project unless the settings or the environment say otherwise."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.address import redact

SOURCE_ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = (
    "Each run is one training of one net on one dataset. `loss`, `accuracy`, `val_loss`, `val_accuracy` "
    "have one point an epoch; `test_*` are measured once, on rows that no training saw. Params are the "
    "settings that the run used: the net's own by their bare names, those of its data by section."
)

SQLITE = "sqlite:///"

log = logging.getLogger(__name__)


def store_root() -> Path:
    """Return the folder of the default store: the project, also from DVC's copies of it under .dvc/tmp/exps."""
    return Path(os.environ.get("DVC_ROOT") or SOURCE_ROOT)


def tracking_uri(settings: Settings) -> str:
    """Return the address of the store: `tracking.uri`, else MLFLOW_TRACKING_URI, else SQLite in the project."""
    return settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store_root() / 'mlflow.db'}"


def open_store(settings: Settings) -> str:
    """Point MLflow at the store, made on first use by one process at a time, and return the experiment's id.

    Raises:
        SettingsError: the store's address is none that MLflow can open.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    try:
        with _made(uri):
            client = mlflow.MlflowClient()  # its first call makes the tables
            experiment = client.get_experiment_by_name(settings.tracking.experiment)
            if experiment:
                return str(experiment.experiment_id)
            return str(
                client.create_experiment(
                    settings.tracking.experiment, _artifacts(uri), tags={"mlflow.note.content": DESCRIPTION}
                )
            )
    except MlflowException as error:
        reason = redact(" ".join(str(error).split()))
        raise SettingsError(f"tracking.uri: {redact(uri)} cannot be opened: {reason}") from error


@contextlib.contextmanager
def _made(uri: str) -> Iterator[None]:
    """Hold the lock of a SQLite store; a new one is put into WAL mode, so that readers and a writer do not wait."""
    from filelock import FileLock

    if not uri.startswith(SQLITE):
        yield
        return
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if not database.exists():
            log.info("%s: made for MLflow's runs", database)
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        yield


def _artifacts(uri: str) -> str | None:
    """Return where the files of runs go: beside a SQLite store; a server decides for itself."""
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
