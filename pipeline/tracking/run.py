"""One training as one run: live curves, files, and how it ended."""

import contextlib
import json
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

from pipeline import lineage, paths
from pipeline.config import Settings, flatten, to_dict
from pipeline.lineage import Code, Inputs
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


def run_name(settings: Settings, net: str, overrides: Sequence[str]) -> str:
    """Return the net, the dataset, and what was overridden of what the net uses.

    An override's value stays, its section goes: `keras mnist units=64`.
    """
    dataset = settings.section(net).dataset
    used = (f"{net}.", f"{dataset}.", "preprocess.", "seed=", "experiment=")
    shown = [text.removeprefix(f"{net}.") for text in overrides if text.lstrip("+~").startswith(used)]
    return " ".join([net, dataset, *(text for text in shown if not text.startswith("dataset="))])


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

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, value)

    def log_trained(
        self, result: Trained, folder: Path, settings: Settings, *, example: np.ndarray, model: Any = None
    ) -> None:
        """Add what a training left: its files, and the model itself.

        Args:
            result: the trained net.
            folder: where `trained.save` has written it.
            settings: all settings, as they were.
            example: (2, d) rows of the net's input, for the model's signature.
            model: the `keras.Model` of a Keras net.
        """
        self.log_files(result, folder, settings)
        if model is None:
            log_scratch_model(result, folder / "weights.npz", example)
        else:
            log_keras_model(model, example)

    def log_files(self, result: Trained, folder: Path, settings: Settings) -> None:
        """Add weights, history, summary and settings; the digest of the weights becomes the tag `weights_sha256`."""
        self.set_tags({"weights_sha256": result.weights_sha256})
        self._client.log_artifacts(self.run_id, str(folder))
        plain = to_dict(settings) | {"net": result.net}
        plain["tracking"]["uri"] = None  # it may hold a password, and changes nothing
        self._client.log_text(self.run_id, yaml.safe_dump(plain, sort_keys=False), "settings.yaml")

    def log_report(self, metrics: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        """Add what an evaluation found: metrics, and pictures as PNG by name."""
        log_report(self.run_id, metrics, images)


def _log_inputs(run_id: str, inputs: Inputs) -> None:
    """Log the dataset as the run's input, once for each context: MLflow tells datasets apart by name and digest."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": paths.prepared(inputs.dataset).as_posix()})
    datasets = [
        DatasetInput(
            Dataset(
                name=f"{inputs.dataset}-{context}",
                digest=inputs.data_md5,
                source_type="local",
                source=source,
                profile=json.dumps({"num_rows": n_rows}),
            ),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for context, n_rows in inputs.n_rows.items()
    ]
    mlflow.MlflowClient().log_inputs(run_id, datasets)


def _log_diff(run_id: str, diff: str) -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, lineage.DIFF_FILE)
        path.write_text(diff, encoding="utf-8", errors="surrogateescape")
        mlflow.MlflowClient().log_artifact(run_id, str(path))


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
def start_run(
    settings: Settings, net: str, inputs: Inputs, overrides: Sequence[str] = (), *, code: Code | None = None
) -> Iterator[Run]:
    """Yield the open run of one training; it ends FINISHED, FAILED with its error as a tag, or KILLED (Ctrl-C).

    Args:
        settings: all settings; those that `net` uses become params.
        net: scratch or keras.
        inputs: the data that it reads, which become MLflow datasets.
        overrides: what differs from conf/, for the run's name.
        code: the code that trains; None: this checkout's.
    """
    import mlflow

    experiment_id = open_store(settings)
    os.environ.pop("MLFLOW_RUN_ID", None)  # start_run would go on with that run instead of a new one
    code = code or lineage.read_code()
    tags = lineage.tags(settings, inputs, code, list(overrides))
    run_id = mlflow.start_run(
        experiment_id=experiment_id, run_name=run_name(settings, net, overrides), tags=tags
    ).info.run_id
    mlflow.log_params(run_params(settings, net))
    _log_inputs(run_id, inputs)
    if code.diff:
        _log_diff(run_id, code.diff)
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
    """Return the id of the newest run that has made these weights and is no reproduction of another; or None."""
    import mlflow

    experiment_id = open_store(settings)  # before the client is made: it takes the address that is set by then
    found = mlflow.MlflowClient().search_runs([experiment_id], f"tags.weights_sha256 = '{weights_sha256}'")
    return next((str(run.info.run_id) for run in found if "reproduces" not in run.data.tags), None)
