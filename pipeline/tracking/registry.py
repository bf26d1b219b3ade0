"""The best net of each dataset in MLflow's model registry: `models:/<dataset>@champion`."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import trained
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.store import open_store, reason, say_away, tracking_uri
from pipeline.trained import Trained

CHAMPION = "champion"
METRIC = "test_accuracy"  # higher is better
DESCRIPTION = {
    "mnist": "The best net on the images of digits. In: rows of 784 pixels from 0 to 1. Out: ten probabilities.",
    "synthetic": "The best net on the binary task. In: rows of its features. Out: the probability of class 1.",
}

log = logging.getLogger(__name__)


def promote(settings: Settings, dataset: str, data_md5: str, measure: Callable[[Trained], float]) -> str | None:
    """Register the best run on a dataset and make it the champion, if it is better than the one that is.

    Candidates are the finished runs of the experiment with a logged model and a test accuracy, trained on the same
    bytes, none of them on the test rows. A champion that was trained on other bytes was tested on other rows,
    maybe: so what it has to be beaten by is not what its version says, but what `measure` finds now.

    Args:
        settings: all settings; those of tracking are read.
        dataset: one of config.DATASETS; the registered model takes its name.
        data_md5: DVC's md5 of the prepared dataset.
        measure: returns the accuracy of a net on the test rows of that dataset.

    Returns:
        The version that is now the champion; None if the alias has not moved, or the store cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _promote(settings, dataset, data_md5, measure)
    except (SettingsError, MlflowException) as error:
        say_away(tracking_uri(settings), reason(error), f"{CHAMPION} of {dataset} stays as it is")
        return None


def _promote(settings: Settings, dataset: str, data_md5: str, measure: Callable[[Trained], float]) -> str | None:
    """Do what `promote` says, in a store that answers."""
    import mlflow

    experiment_id = open_store(settings)
    client = mlflow.MlflowClient()
    with _one_at_a_time(tracking_uri(settings)):
        best = _best_run(client, experiment_id, dataset, data_md5)
        if best is None:
            return None
        champion = _champion(client, dataset)
        if champion and champion.tags.get("weights_sha256") == best.data.tags["weights_sha256"]:
            return None
        to_beat, told = _to_beat(client, champion, data_md5, measure)
        accuracy = best.data.metrics[METRIC]
        if accuracy <= to_beat:
            log.info("%s of %s: unchanged (%s); the best run has %s %.4f", CHAMPION, dataset, told, METRIC, accuracy)
            return None
        version = _version(client, dataset, best, data_md5)
        client.set_registered_model_alias(dataset, CHAMPION, version)
    log.info("%s of %s: version %s, %s %.4f (%s)", CHAMPION, dataset, version, METRIC, accuracy, told)
    return version


def _best_run(client: Any, experiment_id: str, dataset: str, data_md5: str) -> Any:
    """Return the candidate of the highest test accuracy, the earliest of equals; None if there is none."""
    found = client.search_runs(
        [experiment_id],
        f"attributes.status = 'FINISHED' and params.dataset = '{dataset}' and tags.`data.md5` = '{data_md5}' "
        f"and params.`preprocess.pool_test` = 'False' and metrics.{METRIC} >= 0",
        order_by=[f"metrics.{METRIC} DESC", "attributes.start_time ASC"],
    )
    return next((run for run in found if run.outputs and run.outputs.model_outputs), None)


def _champion(client: Any, dataset: str) -> Any:
    """Return the version that has the alias, or None; the registered model is made if there is none."""
    registered = client.search_registered_models(f"name = '{dataset}'")
    if not registered:
        client.create_registered_model(dataset, description=DESCRIPTION[dataset])
        return None
    version = registered[0].aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(dataset, str(version))


def _to_beat(client: Any, champion: Any, data_md5: str, measure: Callable[[Trained], float]) -> tuple[float, str]:
    """Return the champion's accuracy on the present test rows, -inf where it has none, and the words for the log."""
    from mlflow.exceptions import MlflowException

    if champion is None:
        return -math.inf, "the first"
    if champion.tags.get("data.md5") == data_md5:
        accuracy = float(champion.tags[METRIC])
        return accuracy, f"was {accuracy:.4f}"
    named = f"version {champion.version}, trained on other data,"
    try:
        accuracy = measure(_weights(client, champion.run_id))
    except (MlflowException, OSError, ValueError) as error:  # its run is gone, or its net takes other inputs
        log.warning("%s cannot be tested on these: %s", named, reason(error))
        return -math.inf, f"{named} cannot be tested on these"
    return accuracy, f"{named} has {accuracy:.4f} on the same test rows"


def _weights(client: Any, run_id: str) -> Trained:
    """Return the net of a run."""
    with tempfile.TemporaryDirectory() as folder:
        for file in client.list_artifacts(run_id):
            if not file.is_dir:
                client.download_artifacts(run_id, file.path, folder)
        return trained.load(Path(folder))


def _version(client: Any, dataset: str, run: Any, data_md5: str) -> str:
    """Return the version of a run's model, registered now unless it has been before."""
    registered = client.search_model_versions(f"name = '{dataset}' and run_id = '{run.info.run_id}'")
    if registered:
        return str(registered[0].version)
    model_id = run.outputs.model_outputs[0].model_id
    tags = {
        "run_id": run.info.run_id,
        "net": run.data.params["net"],
        "data.md5": data_md5,
        METRIC: str(run.data.metrics[METRIC]),
        "weights_sha256": run.data.tags["weights_sha256"],
    }
    made = client.create_model_version(
        dataset, f"models:/{model_id}", run.info.run_id, tags=tags, model_id=model_id, await_creation_for=None
    )
    return str(made.version)


def _one_at_a_time(uri: str) -> contextlib.AbstractContextManager[Any]:
    """Return a lock beside a SQLite store: a second evaluate sees the champion that the first has made."""
    from filelock import FileLock

    if not uri.startswith("sqlite:///"):
        return contextlib.nullcontext()
    return FileLock(f"{uri.removeprefix('sqlite:///')}.{CHAMPION}.lock")
