"""The best net of each task in MLflow's model registry: `models:/mnist@champion`, and of digits and synthetic."""

import contextlib
import logging
from typing import Any

from pipeline.address import reason
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.delivery import Destination
from pipeline.tracking.store import open_store, say_away, tracking_uri

CHAMPION = "champion"
METRIC = "test_accuracy"  # higher is better
TEST_TAG = "test_sha256"  # of the rows that it was measured on
DESCRIPTION = {
    "mnist": "The best net on the images of digits. In: rows of 784 pixels from 0 to 1. Out: ten probabilities.",
    "digits": "The best net on scikit-learn's digits. In: rows of 784 pixels from 0 to 1. Out: ten probabilities.",
    "synthetic": "The best net on the binary task. In: rows of its features. Out: the probability of class 1.",
}

log = logging.getLogger(__name__)


def task_of(settings: Settings, dataset: str) -> str:
    """Return the name of the registered model of a dataset: scikit-learn's small digits are a task of their own."""
    return "digits" if dataset == "mnist" and settings.mnist.source == "digits" else dataset


def promote(settings: Settings, dataset: str, data_md5: str, test_sha256: str) -> str | None:
    """Register the best run on a dataset and make it the champion of its task, if it is better than the one that is.

    Candidates are the finished runs of the experiment with a logged model and a test accuracy, trained on the same
    bytes, none of them on the test rows. A champion that was tested on other rows stays, as the two figures cannot
    be compared.

    Args:
        settings: all settings; those of tracking and the source of the images are read.
        dataset: one of config.DATASETS.
        data_md5: DVC's md5 of the prepared dataset.
        test_sha256: of its test rows.

    Returns:
        The version that is now the champion; None if the alias has not moved, or the store cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    task = task_of(settings, dataset)
    try:
        return _promote(settings, task, dataset, data_md5, test_sha256)
    except (SettingsError, MlflowException) as error:
        say_away(tracking_uri(settings), reason(error), f"{CHAMPION} of {task} stays as it is")
    except Exception as error:  # a proxy's page in place of an answer; a champion made by hand, without its figures
        log.warning("%s of %s stays as it is, as nothing can be compared with it: %s", CHAMPION, task, reason(error))
    return None


def _promote(settings: Settings, task: str, dataset: str, data_md5: str, test_sha256: str) -> str | None:
    """Do what `promote` says, in a store that answers."""
    experiment_id = open_store(settings)
    to = Destination(tracking_uri(settings))
    with _one_at_a_time(tracking_uri(settings)):
        best = _best_run(to.client, experiment_id, dataset, data_md5)
        if best is None:
            return None
        champion = _champion(to, task)
        if champion and champion.tags.get("weights_sha256") == best.data.tags["weights_sha256"]:
            return None
        accuracy = best.data.metrics[METRIC]
        told = "the first"
        if champion:
            to_beat = float(champion.tags[METRIC])
            same_rows = champion.tags.get(TEST_TAG) == test_sha256
            told = (
                f"was {to_beat:.4f}"
                if same_rows
                else f"version {champion.version} was tested on other rows; README: Use a model"
            )
            if not same_rows or accuracy <= to_beat:
                log.info("%s of %s: unchanged (%s); the best run has %s %.4f", CHAMPION, task, told, METRIC, accuracy)
                return None
        version = _version(to, task, best, {"data.md5": data_md5, TEST_TAG: test_sha256})
        to.write("set_registered_model_alias", task, CHAMPION, version)
    log.info("%s of %s: version %s, %s %.4f (%s)", CHAMPION, task, version, METRIC, accuracy, told)
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


def _champion(to: Destination, task: str) -> Any:
    """Return the version that has the alias, or None; the registered model is made if there is none."""
    registered = to.client.search_registered_models(f"name = '{task}'")
    if not registered:
        to.write("create_registered_model", task, description=DESCRIPTION[task])
        return None
    version = registered[0].aliases.get(CHAMPION)
    return None if version is None else to.client.get_model_version(task, str(version))


def _version(to: Destination, task: str, run: Any, data: dict[str, str]) -> str:
    """Return the version of a run's model, registered now unless it has been before."""
    registered = to.client.search_model_versions(f"name = '{task}' and run_id = '{run.info.run_id}'")
    if registered:
        return str(registered[0].version)
    model_id = run.outputs.model_outputs[0].model_id
    tags = {
        "run_id": run.info.run_id,
        "net": run.data.params["net"],
        **data,
        METRIC: str(run.data.metrics[METRIC]),
        "weights_sha256": run.data.tags["weights_sha256"],
    }
    made = to.write(
        "create_model_version",
        *(task, f"models:/{model_id}", run.info.run_id),
        tags=tags,
        model_id=model_id,
        await_creation_for=None,
    )
    return str(made.version)


def _one_at_a_time(uri: str) -> contextlib.AbstractContextManager[Any]:
    """Return a lock beside a SQLite store: a second evaluate sees the champion that the first has made."""
    from filelock import FileLock

    if not uri.startswith("sqlite:///"):
        return contextlib.nullcontext()
    return FileLock(f"{uri.removeprefix('sqlite:///')}.{CHAMPION}.lock")
