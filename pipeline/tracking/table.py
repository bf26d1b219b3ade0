"""Tracked runs as pandas tables, for notebooks and for `python -m pipeline.compare`."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.address import reason, redact
from pipeline.config import PARAMS_FILE, Settings, load_params
from pipeline.errors import DataError, SettingsError
from pipeline.tracking.delivery import run_noted
from pipeline.tracking.store import SQLITE, check_uri, client_of, database_errors, store_root, tracking_uri
from pipeline.trained import HISTORY_KEYS

if TYPE_CHECKING:
    import pandas as pd

ID_LENGTH = 32
TEST_KEYS = ("test_accuracy", "test_loss")
FIRST = {"params": ("net", "dataset", "seed"), "metrics": (*HISTORY_KEYS, *TEST_KEYS)}  # the others follow by name
PAGE = 1000  # runs, or experiments, that MLflow hands out in one call
NO_RUN = (
    "{run_id}: the tracking store has no such run; `python -m pipeline.compare` lists the newest of {store}, and "
    "tracking.uri or MLFLOW_TRACKING_URI names another store"
)


def find_experiment(settings: Settings) -> str | None:
    """Return the id of the project's experiment, or None where there is none yet; it makes neither it nor a store.

    Raises:
        SettingsError: a tracking server does not answer.
    """
    with _reading(settings) as client:
        experiment = client and client.get_experiment_by_name(settings.tracking.experiment)
    return str(experiment.experiment_id) if experiment else None


@contextlib.contextmanager
def _reading(settings: Settings) -> Iterator[Any]:
    """Yield MLflow's client of the store, or None where there is none yet; it makes none.

    Raises:
        SettingsError: the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(settings)
    check_uri(uri)
    try:
        yield client_of(uri) if not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists() else None
    except (MlflowException, *database_errors()) as error:
        # not `from error`: a notebook shows the chain, and MLflow's message holds the password
        raise SettingsError(f"tracking.uri: {redact(uri)} cannot be read: {reason(error)}") from None


def runs(n: int | None = None, *, settings: Settings | None = None, run_ids: Sequence[str] = ()) -> "pd.DataFrame":
    """Return the tracked runs, newest first, one row each, indexed by the run's id.

    The columns: name, status, started (UTC), seconds (NaN while it runs); then the run's params by their names, as
    numbers where they are numbers; its last metrics by theirs; and its lineage, which is MLflow's tags by theirs
    (weights_sha256, data.md5, git.commit, ...). What a run has not got is missing (NaN); the columns of FIRST are
    there in any case. Where a tag has the name of a param, the column holds the param. `attrs` names the columns of
    each kind that runs have, "params" and "metrics"; its "experiment_ids" are those of the rows.

    Args:
        n: how many, at most; None: all.
        settings: whose store is read; None: those of the project's params.yaml.
        run_ids: only these, in this order; each may be shortened as long as it fits one run.

    Raises:
        DataError: one of `run_ids` fits no run, or several.
    """
    import pandas as pd

    settings = settings or own_settings()
    found = [find(settings, run_id) for run_id in run_ids] if run_ids else _newest(settings, n)
    table = pd.DataFrame([_row(run) for run in found], index=[run.info.run_id for run in found])
    head = ["name", "status", "started", "seconds"]
    names = {kind: _names(found, kind) for kind in FIRST}
    first = list(dict.fromkeys([*head, *FIRST["params"], *names["params"], *FIRST["metrics"], *names["metrics"]]))
    table = table.reindex(columns=[*first, *sorted(set(table.columns) - set(first))]).rename_axis("run_id")
    table.attrs |= names | {"experiment_ids": [run.info.experiment_id for run in found]}
    return table


def history(run_id: str, *, settings: Settings | None = None) -> "pd.DataFrame":
    """Return the history of a run, indexed by epoch from 1: loss, accuracy, val_loss, val_accuracy.

    Args:
        run_id: of one run; it may be shortened.
        settings: whose store is read; None: those of the project's params.yaml.

    Raises:
        DataError: it fits no run, or several.
    """
    import pandas as pd

    settings = settings or own_settings()
    run = find(settings, run_id)
    with _reading(settings) as client:
        curves = {
            key: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
            for key in HISTORY_KEYS
            if key in run.data.metrics
        }
    return pd.DataFrame(curves).sort_index().rename_axis("epoch")


def own_settings() -> Settings:
    """Return the settings of the project that this code is of, whosever folder one stands in.

    Raises:
        SettingsError: params.yaml is not what this code needs, as where conf/ has changed since.
    """
    try:
        return load_params(store_root() / PARAMS_FILE)
    except SettingsError as error:
        raise SettingsError(f"{PARAMS_FILE}: {error}; `dvc repro compose` makes it anew from conf/") from error


def _newest(settings: Settings, n: int | None) -> list[Any]:
    """Return the newest runs of the project's experiment; all of them where n is None."""
    experiment_id = find_experiment(settings)
    with _reading(settings) as client:
        return _search(client, [experiment_id], "", n) if experiment_id else []


def _search(client: Any, experiment_ids: list[str], condition: str, n: int | None = None) -> list[Any]:
    return _paged(lambda size, token: client.search_runs(experiment_ids, condition, 1, size, page_token=token), n)


def _paged(page_of: Callable[[int, str | None], Any], n: int | None = None) -> list[Any]:
    """Return the first n of what MLflow hands out in pages; all where n is None."""
    found: list[Any] = []
    token = None
    while n is None or len(found) < n:
        page = page_of(PAGE if n is None else min(PAGE, n - len(found)), token)
        found += page
        token = page.token
        if not token:
            break
    return found


def find(settings: Settings, run_id: str) -> Any:
    """Return the one run whose id begins with `run_id`, of whatever experiment of the store.

    Raises:
        DataError: it fits no run, or several.
        SettingsError: the store does not answer.
    """
    if not re.fullmatch(rf"[0-9a-f]{{1,{ID_LENGTH}}}", run_id):
        raise DataError(f"{run_id}: a run's id, or the beginning of one, is needed: digits and letters from a to f")
    with _reading(settings) as client:
        found = _fitting(client, run_id) if client else []
    if not found:
        raise DataError(NO_RUN.format(run_id=run_id, store=redact(tracking_uri(settings))))
    if len(found) > 1:
        fitting = ", ".join(run.info.run_id[: len(run_id) + 4] for run in found[:5])
        raise DataError(f"{run_id}: fits {len(found)} runs ({fitting}, ...); give more of the id")
    return found[0]


def _fitting(client: Any, run_id: str) -> list[Any]:
    """Return the runs whose id begins with `run_id`, but for deleted ones."""
    from mlflow.entities import ViewType

    if len(run_id) == ID_LENGTH:  # MLflow knows it without asking experiment after experiment
        run = run_noted(client, run_id)
        return [run] if run and run.info.lifecycle_stage == "active" else []
    experiments = _paged(lambda size, token: client.search_experiments(ViewType.ACTIVE_ONLY, size, page_token=token))
    experiment_ids = [experiment.experiment_id for experiment in experiments]
    return _search(client, experiment_ids, f"attributes.run_id LIKE '{run_id}%'")


def _row(run: Any) -> dict[str, Any]:
    import pandas as pd

    start, end = run.info.start_time, run.info.end_time
    lineage = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    params = {name: _plain(value) for name, value in run.data.params.items()}
    return {
        **lineage,
        **run.data.metrics,
        **{name: value for name, value in params.items() if value is not None},
        "name": run.info.run_name,
        "status": run.info.status,
        "started": pd.Timestamp(start, unit="ms", tz="UTC"),
        "seconds": (end - start) / 1000 if end else float("nan"),
    }


def _names(found: list[Any], kind: str) -> list[str]:
    """Return the names of all params or metrics of some runs."""
    present = {name for run in found for name, value in getattr(run.data, kind).items() if _plain(value) is not None}
    return [*(name for name in FIRST[kind] if name in present), *sorted(present.difference(FIRST[kind]))]


def _plain(value: Any) -> Any:
    """Return a param, which MLflow keeps as text, as what it was: a number, a truth value, None or a text.

    >>> [_plain(text) for text in ("512", "1e-3", "True", "None", "512,256")]
    [512, 0.001, True, None, '512,256']
    """
    names = {"True": True, "False": False, "None": None}
    if value in names:
        return names[value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value
