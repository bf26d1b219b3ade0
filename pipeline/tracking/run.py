"""One training as one run: live curves, files, and how it ended."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.config import Settings, flatten, to_dict
from pipeline.tracking.models import log_keras_model, log_scratch_model
from pipeline.tracking.store import open_store
from pipeline.trained import Trained

FLUSH_SECONDS = 1.0  # a live curve lags by this much; a flush of 100 epochs takes 20 ms on SQLite
LARGEST_BATCH = 1000  # metrics that MLflow takes in one call
log = logging.getLogger(__name__)


def run_params(settings: Settings, net: str) -> dict[str, Any]:
    """Return the settings that a run of `net` uses, flat: its own by bare name, its data's by section."""
    composed = to_dict(settings)
    own = composed[net]
    shared = {"net": net, "seed": settings.seed, **own}
    data = flatten({section: composed[section] for section in (own["dataset"], "preprocess")})
    unused = {"mnist.max_csv_bytes"}
    used = {key: value for key, value in (shared | data).items() if key not in unused}
    return {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in used.items()}


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
            log_scratch_model(result, folder / "weights.npz", example)
        else:
            log_keras_model(model, example)

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
