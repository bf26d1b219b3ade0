"""Brings a record to an MLflow store: what the courier does while a run goes on, and `pipeline.sync` afterwards.

It may break off at any moment and be done again: runs are found by the tag `record`, points and params that a store
has already change nothing there, and what it has got is noted in the record after each step. A run that is noted and
that the store no longer has, as it was made anew, is made again; one that was deleted in it stays deleted.
"""

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.address import redact
from pipeline.tracking import ledger
from pipeline.tracking.models import RECORD_TAG, has_parts, log_model
from pipeline.tracking.records import RUNNING, Delivered, Record, find_record, now
from pipeline.tracking.store import client_of, open_experiment, patiently

LARGEST_BATCH = 1000  # metrics, and of tags and params 100, that MLflow takes in one call
LARGEST_TAG = 8000  # characters; what is longer MLflow's client cuts by itself
SAFE_TAG = 5000  # characters; what the smallest limit of an MLflow server lets pass
NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"
ABSENT = "RESOURCE_DOES_NOT_EXIST"
REFUSED = (ABSENT, "INVALID_PARAMETER_VALUE")  # how MLflow answers where a run is absent, or deleted

log = logging.getLogger(__name__)


class RunDeleted(Exception):  # noqa: N818 – it is no error
    """The run of a record was deleted in the store, by whoever did not want it there."""


class Destination:
    """A store that records are brought to; it is first spoken to when something is."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.key = redact(uri)
        self._client: Any = None
        self._experiments: dict[str, str] = {}

    @property
    def client(self) -> Any:
        """Return MLflow's client of the store."""
        if self._client is None:
            self._client = client_of(self.uri)
        return self._client

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment; it is made, as is the store, if there is none."""
        if name not in self._experiments:
            self._experiments[name] = patiently(self.uri, lambda: open_experiment(self.uri, name))
        return self._experiments[name]

    def forget(self) -> None:
        """Ask again for the ids of experiments: the store was made anew."""
        self._experiments.clear()

    def write(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Return what a method of the client returns that writes."""
        return patiently(self.uri, lambda: getattr(self.client, method)(*arguments, **options))


def deliver(
    record: Record, to: Destination, on_progress: Callable[[], None] = lambda: None, *, is_new: bool = False
) -> Delivered:
    """Bring a store all that it lacks of a record, and return what it then has.

    Args:
        record: of a run that may still go on.
        to: the store.
        on_progress: called after each step that the store has answered.
        is_new: whether it is not looked for in the store, which takes longer the more runs there are.

    Raises:
        RunDeleted: the run was deleted in the store.
        DataError: the record is damaged.
        Exception: whatever MLflow raises where the store does not answer, or refuses; what it has got stays noted.
    """
    from mlflow.exceptions import MlflowException

    with record.delivering():
        try:
            return _bring(record, to, on_progress, is_new=is_new)
        except MlflowException as error:
            noted = record.delivered(to.key).run_id
            if noted is None or error.error_code not in REFUSED or _has_run(to, noted):
                raise
        to.forget()
        record.save_delivered(to.key, Delivered())
        return _bring(record, to, on_progress)


def _bring(record: Record, to: Destination, on_progress: Callable[[], None], *, is_new: bool = False) -> Delivered:
    seen = record.fingerprint()
    state = record.state
    has = _ensure_run(record, to, is_new=is_new)  # no progress: of a run that is noted the store was not asked
    for step in (_bring_points, _bring_tags, _bring_artifacts, _bring_model, _bring_end):
        has = step(record, to, has, on_progress)
    stamp = ledger.stamp(str(record.folder))
    if state.status != RUNNING and seen == record.fingerprint():
        if has.whole != seen:
            has = _note(record, to, replace(has, whole=seen))
        ledger.note(record, to.key, stamp)
    return has


def run_noted(client: Any, run_id: str) -> Any:
    """Return a run by its id, also a deleted one; None: the store has none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ABSENT:
            return None
        raise


def _has_run(to: Destination, run_id: str) -> bool:
    run = run_noted(to.client, run_id)
    return run is not None and _active(run).info.run_id == run_id


def _active(run: Any) -> Any:
    if run.info.lifecycle_stage == "deleted":
        raise RunDeleted(f"run {run.info.run_id} was deleted there")
    return run


def _note(record: Record, to: Destination, has: Delivered) -> Delivered:
    record.save_delivered(to.key, has)
    return has


def _ensure_run(record: Record, to: Destination, *, is_new: bool = False) -> Delivered:
    """Return what the store has, where that is at least the run; parents come before their children."""
    has = record.delivered(to.key)
    if has.run_id is not None:
        return has
    opening = record.opening
    experiment_id = to.experiment_id(opening.experiment)
    run = None if is_new else _run_of(record.id, to, experiment_id)
    run_id = str(run.info.run_id) if run else _create_run(record, to, experiment_id)
    _bring_params(record, to, run_id)
    return _note(record, to, _newer(run, record) if run else Delivered(run_id))


def _newer(run: Any, record: Record) -> Delivered:
    """Return of what a record changes in a run all that it must not, as another machine has gone on with the run."""
    state = record.state
    if record.opening.parent or (run.info.end_time or 0) <= (state.end_time or now()):
        return Delivered(run.info.run_id)
    ended = (state.status, state.end_time)
    return Delivered(run.info.run_id, tags=state.tags, artifacts=record.artifacts(), ended=ended)


def _create_run(record: Record, to: Destination, experiment_id: str) -> str:
    opening = record.opening
    tags = {RECORD_TAG: record.id}
    if opening.parent and not _is_above_itself(record):
        parent = _run_of_parent(opening.parent, to, experiment_id)
        tags |= {PARENT_TAG: parent} if parent else {}
    made = to.write("create_run", experiment_id, start_time=opening.start_time, tags=tags, run_name=opening.name)
    return str(made.info.run_id)


def _is_above_itself(record: Record) -> bool:
    """Return whether parents lead back to the record, as those of another store may: it would wait for itself."""
    above, seen = record.opening.parent, set()
    with contextlib.suppress(OSError, ValueError):  # the record of one of them is gone, or damaged
        while above and above not in seen:
            if above == record.id:
                return True
            seen.add(above)
            above = find_record(above).opening.parent
    return False


def _run_of_parent(record_id: str, to: Destination, experiment_id: str) -> str | None:
    """Return the MLflow run of a parent's record, made if need be; None: the record is gone and no run had its id."""
    with contextlib.suppress(RunDeleted):
        with contextlib.suppress(FileNotFoundError, ValueError):
            parent = find_record(record_id)
            with parent.delivering():
                return _ensure_run(parent, to).run_id
        run = _run_of(record_id, to, experiment_id)
        return str(run.info.run_id) if run else None
    return None


def _run_of(record_id: str, to: Destination, experiment_id: str) -> Any:
    """Return the run of a record that the store has, or None.

    Raises:
        RunDeleted: it was deleted there.
    """
    from mlflow.entities import ViewType

    condition = f"tags.{RECORD_TAG} = '{record_id}'"
    found = to.client.search_runs([experiment_id], condition, ViewType.ALL, max_results=1)
    return _active(found[0]) if found else None


def _bring_params(record: Record, to: Destination, run_id: str) -> None:
    """Bring what is known from the start; it changes nothing where the store has it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    opening = record.opening
    params = [Param(name, value) for name, value in opening.params.items()]
    for first in range(0, len(params), 100):
        to.write("log_batch", run_id, params=params[first : first + 100])
    datasets = [
        DatasetInput(
            Dataset(
                name=one["name"],
                digest=one["digest"],
                source_type="local",
                source=one["source"],
                profile=json.dumps({"num_rows": one["n_rows"]}),
            ),
            tags=[InputTag("mlflow.data.context", one["context"])],
        )
        for one in opening.datasets
    ]
    if datasets:
        to.write("log_inputs", run_id, datasets)


def _bring_points(record: Record, to: Destination, has: Delivered, on_progress: Callable[[], None]) -> Delivered:
    from mlflow.entities import Metric

    batch: list[Metric] = []
    offset = has.offset
    for points, behind in record.points(has.offset):
        if len(batch) + len(points.metrics) > LARGEST_BATCH:
            to.write("log_batch", has.run_id, metrics=batch)
            has = _note(record, to, replace(has, offset=offset))
            on_progress()
            batch = []
        batch += [Metric(name, value, points.time, points.step) for name, value in points.metrics.items()]
        offset = behind
    if batch:
        to.write("log_batch", has.run_id, metrics=batch)
        has = _note(record, to, replace(has, offset=offset))
        on_progress()
    return has


def _bring_tags(record: Record, to: Destination, has: Delivered, on_progress: Callable[[], None]) -> Delivered:
    tags = record.state.tags
    new = {name: value for name, value in tags.items() if has.tags.get(name) != value}
    if not new:
        return has
    name = new.pop(NAME_TAG, None)
    if name:
        to.write("update_run", has.run_id, name=name)
    changed = list(new.items())
    for first in range(0, len(changed), 100):
        _log_tags(record, to, str(has.run_id), dict(changed[first : first + 100]))
    on_progress()
    return _note(record, to, replace(has, tags=tags))


def _log_tags(record: Record, to: Destination, run_id: str, tags: dict[str, str]) -> None:
    """Set tags, whole unless the store refuses that; of those that are cut it is said."""
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    longest = LARGEST_TAG
    try:
        to.write("log_batch", run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    except MlflowException as error:
        if error.error_code not in REFUSED or all(len(value) <= SAFE_TAG for value in tags.values()):
            raise
        longest = SAFE_TAG
        to.write("log_batch", run_id, tags=[RunTag(name, value[:longest]) for name, value in tags.items()])
    for name in (name for name, value in tags.items() if len(value) > longest):
        log.warning(
            "%s: the tag %s is cut to %d characters there; %s has all", record.id[:8], name, longest, record.folder
        )


def _bring_artifacts(record: Record, to: Destination, has: Delivered, on_progress: Callable[[], None]) -> Delivered:
    for name, stamp in record.artifacts().items():
        if has.artifacts.get(name) != stamp:
            folder = name.rpartition("/")[0] or None
            to.client.log_artifact(has.run_id, str(record.folder / "artifacts" / name), folder)
            has = _note(record, to, replace(has, artifacts=has.artifacts | {name: stamp}))
            on_progress()
    return has


def _bring_model(record: Record, to: Destination, has: Delivered, on_progress: Callable[[], None]) -> Delivered:
    if has.model_id or not record.state.model or not has_parts(record):
        return has
    experiment_id = to.experiment_id(record.opening.experiment)
    model_id = log_model(to.client, to.write, experiment_id, str(has.run_id), record)
    on_progress()
    return _note(record, to, replace(has, model_id=model_id))


def _bring_end(record: Record, to: Destination, has: Delivered, on_progress: Callable[[], None]) -> Delivered:
    state = record.state
    ended = (state.status, state.end_time)
    if ended == has.ended:
        return has
    if state.status == RUNNING:
        to.write("update_run", has.run_id, status=RUNNING)
    else:
        to.write("set_terminated", has.run_id, state.status, state.end_time)
    on_progress()
    return _note(record, to, replace(has, ended=ended))
