"""The record of runs: the one module that imports mlflow, inside the functions that need it."""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.config import Settings, flatten, to_dict
from pipeline.trained import Trained

SOURCE_ROOT = Path(__file__).resolve().parents[1]
FLUSH_SECONDS = 1.0  # a live curve lags by this much; a flush of 100 epochs takes 20 ms on SQLite
LARGEST_BATCH = 1000  # metrics that MLflow takes in one call
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


def run_params(settings: Settings, net: str) -> dict[str, Any]:
    """Return the settings that a run of `net` uses, flat: its own by bare name, its data's by section."""
    composed = to_dict(settings)
    own = composed[net]
    shared = {"net": net, "seed": settings.seed, **own}
    data = flatten({section: composed[section] for section in (own["dataset"], "preprocess")})
    unused = {"mnist.max_csv_bytes"}
    used = {key: value for key, value in (shared | data).items() if key not in unused}
    return {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in used.items()}


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


class Run:
    """One run in MLflow that is still open; its epochs reach the store within FLUSH_SECONDS."""

    def __init__(self, run_id: str) -> None:
        import mlflow

        self.run_id = run_id
        self._client = mlflow.MlflowClient()
        self._waiting: list[tuple[int, int, dict[str, float]]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_until_ended, daemon=True)
        self._writer.start()

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an epoch, counted from 0; it returns at once. MLflow's step is epoch + 1."""
        with self._lock:
            self._waiting.append((epoch + 1, int(time.time() * 1000), dict(metrics)))

    def flush(self) -> None:
        """Write what waits."""
        from mlflow.entities import Metric

        with self._lock:
            waiting, self._waiting = self._waiting, []
        points = [Metric(name, value, at, step) for step, at, metrics in waiting for name, value in metrics.items()]
        for first in range(0, len(points), LARGEST_BATCH):
            self._client.log_batch(self.run_id, metrics=points[first : first + LARGEST_BATCH])

    def _write_until_ended(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            self.flush()

    def close(self) -> None:
        """Stop the writer, and write the last epochs."""
        self._ended.set()
        self._writer.join()
        self.flush()

    def log_trained(
        self, result: Trained, folder: Path, settings: Settings, *, example: np.ndarray, model: Any = None
    ) -> None:
        """Add what a training left: weights, history, settings, summary, and the model itself.

        Args:
            result: the trained net; its digest becomes the tag `weights_sha256`.
            folder: where `trained.save` has written it.
            settings: all settings, as they were.
            example: (2, d) rows of the net's input, for the model's signature.
            model: the `keras.Model` of a Keras net.
        """
        self._client.set_tag(self.run_id, "weights_sha256", result.weights_sha256)
        self._client.log_artifacts(self.run_id, str(folder))
        self._client.log_text(self.run_id, yaml.safe_dump(to_dict(settings), sort_keys=False), "settings.yaml")
        if model is None:
            _log_scratch_model(result, folder / "weights.npz", example)
        else:
            _log_keras_model(model, example)

    def log_report(self, metrics: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        """Add what an evaluation found: metrics, and pictures as PNG by name."""
        log_report(self.run_id, metrics, images)


def log_report(run_id: str, metrics: Mapping[str, float], images: Mapping[str, bytes]) -> None:
    """Add metrics, and pictures as PNG by name, to a run that may have ended."""
    import mlflow
    from mlflow.entities import Metric

    client = mlflow.MlflowClient()
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
    with tempfile.TemporaryDirectory() as folder:
        for name, png in images.items():
            (Path(folder) / f"{name}.png").write_bytes(png)
        client.log_artifacts(run_id, folder, "pictures")


@contextlib.contextmanager
def start_run(settings: Settings, net: str, overrides: Sequence[str] = ()) -> Iterator[Run]:
    """Yield the open run of one training; it ends FINISHED, FAILED with its error as a tag, or KILLED (Ctrl-C).

    Args:
        settings: all settings; those that `net` uses become params.
        net: scratch or keras.
        overrides: what differs from conf/, for the run's name.
    """
    import mlflow

    experiment_id = open_store(settings)
    os.environ.pop("MLFLOW_RUN_ID", None)  # start_run would go on with that run instead of a new one
    name = " ".join([net, settings.section(net).dataset, *overrides])
    run_id = mlflow.start_run(experiment_id=experiment_id, run_name=name).info.run_id
    mlflow.log_params(run_params(settings, net))
    run = Run(run_id)
    try:
        yield run
    except BaseException as error:
        run.close()
        mlflow.set_tag("error", f"{type(error).__name__}: {error}")
        mlflow.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.close()
    mlflow.end_run()


def find_run(settings: Settings, weights_sha256: str) -> str | None:
    """Return the id of the newest run that has made these weights, or None."""
    import mlflow

    found = mlflow.MlflowClient().search_runs(
        [open_store(settings)], f"tags.weights_sha256 = '{weights_sha256}'", max_results=1
    )
    return str(found[0].info.run_id) if found else None


class _KerasFlavor:
    """MLflow's Keras flavor, which (in 3.17) writes an input example before it makes the model's folder."""

    __name__ = "mlflow.keras"

    @staticmethod
    def save_model(model: Any, path: str, **options: Any) -> None:
        """Write `model` to `path`."""
        import mlflow

        Path(path).mkdir()
        mlflow.keras.save_model(model, path, **options)


def _log_keras_model(model: Any, example: np.ndarray) -> None:
    from mlflow.models import Model, infer_signature

    Model.log(
        flavor=_KerasFlavor,
        model=model,
        name="model",
        artifact_path=None,
        signature=infer_signature(example, np.asarray(model(example))),
        input_example=example,
        pip_requirements=_pins("keras", "tensorflow", "numpy"),
    )


def _log_scratch_model(result: Trained, weights: Path, example: np.ndarray) -> None:
    """Log scratch_model.py with the package pipeline.nn, the only one of the project that it imports."""
    import mlflow
    from mlflow.models import infer_signature

    source = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "pipeline")
        shutil.copytree(source / "nn", package / "nn", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "__init__.py", package)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(source / "scratch_model.py"),
            artifacts={"weights": str(weights)},
            model_config={"activation": result.activations[0]},
            code_paths=[str(package)],
            signature=infer_signature(example, np.zeros((len(example), len(result.weights["b2"])), example.dtype)),
            input_example=example,
            pip_requirements=_pins("numpy"),
        )


def _pins(*packages: str) -> list[str]:
    """Return the installed versions as requirements; named, as MLflow would else find them in a second process."""
    return [f"{package}=={version(package)}" for package in ("mlflow", *packages)]
