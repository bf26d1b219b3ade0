"""The runs of another store as records on this disk, from which they can be brought to this project's store."""

import json
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.address import reason, redact
from pipeline.errors import DataError, SettingsError
from pipeline.files import replacing
from pipeline.tracking.delivery import PARENT_TAG
from pipeline.tracking.models import RECORD_TAG, Parts
from pipeline.tracking.records import RUNNING, Opening, PointsWriter, Record, now
from pipeline.tracking.store import check_uri, client_of, database_errors

PAGE = 1000
SOURCE_TAG = "imported_from"  # the run in the other store
RECORD_ID = re.compile("[0-9a-f]{32}")  # no other text of a store becomes a folder's name


def import_runs(uri: str, experiment: str, key: str, folder: Path) -> list[Record]:
    """Return the finished runs of a store as records, parents first; those that are here already as they are.

    Args:
        uri: of the other store, which is only read.
        experiment: the name of the experiment in it.
        key: the address without secrets of the store that they are meant for.
        folder: where records stand.

    Raises:
        SettingsError: the store cannot be read.
        DataError: it has no such experiment.
    """
    from mlflow.exceptions import MlflowException

    check_uri(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise SettingsError(f"--from: {uri}: no such file")
    try:
        client = client_of(uri)
        runs = _runs(client, uri, experiment)
        ids = {run.info.run_id: _record_id(run) for run in runs}
        runs.sort(key=lambda run: (PARENT_TAG in run.data.tags, run.info.start_time))
        return [_import(client, run, ids, key, folder) for run in runs if run.info.status != RUNNING]
    except (MlflowException, *database_errors()) as error:
        raise SettingsError(f"--from: {redact(uri)} cannot be read: {reason(error)}") from None


def _runs(client: Any, uri: str, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise DataError(f"--from: {redact(uri)}: has no experiment {experiment}")
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([found.experiment_id], max_results=PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _record_id(run: Any) -> str:
    """Return the id of a run's record: what its tag says, if that is one's, else the run's own id.

    Raises:
        DataError: neither is one; a store may hold anything.
    """
    for found in (run.data.tags.get(RECORD_TAG, ""), run.info.run_id):
        if RECORD_ID.fullmatch(found):
            return str(found)
    raise DataError(f"--from: the id of a run must be 32 digits 0-9 a-f, but got {run.info.run_id!r}")


def _import(client: Any, run: Any, ids: dict[str, str], key: str, folder: Path) -> Record:
    """Return the record of a run; it is made in one piece."""
    record = Record(folder / ids[run.info.run_id])
    if not (record.folder / "run.json").exists():
        with replacing(record.folder) as new:
            _write(client, run, ids, key, new)
    return record


def _write(client: Any, run: Any, ids: dict[str, str], key: str, folder: Path) -> None:
    tags = {name: value for name, value in run.data.tags.items() if name not in (RECORD_TAG, PARENT_TAG)}
    parent = run.data.tags.get(PARENT_TAG)
    opening = Opening(
        name=run.info.run_name,
        store=key,
        experiment=client.get_experiment(run.info.experiment_id).name,
        params=run.data.params,
        datasets=[_dataset(one) for one in run.inputs.dataset_inputs],
        parent=ids.get(parent, parent),
        start_time=run.info.start_time,
    )
    made = Record.create(opening, {}, folder.name, folder.parent)
    _copy_points(client, run, made)
    _copy_artifacts(client, run.info.run_id, made.folder / "artifacts")
    has_model = _copy_model(client, run, made)
    ended = run.info.end_time or now()
    made.change(tags | {SOURCE_TAG: run.info.run_id}, status=run.info.status, end_time=ended, model=has_model)


def _dataset(one: Any) -> dict[str, Any]:
    contexts = [tag.value for tag in one.tags if tag.key == "mlflow.data.context"]
    profile = json.loads(one.dataset.profile or "{}")
    return {
        "name": one.dataset.name,
        "digest": one.dataset.digest,
        "source": one.dataset.source,
        "n_rows": profile.get("num_rows"),
        "context": contexts[0] if contexts else "",
    }


def _copy_points(client: Any, run: Any, record: Record) -> None:
    """Write each point with its own time and step; those of one moment share a line."""
    lines: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            lines[point.timestamp, point.step][name] = point.value
    writer = PointsWriter(record)
    for (at, step), metrics in sorted(lines.items()):
        writer.append(step, metrics, at)
    writer.close()


def _copy_artifacts(client: Any, run_id: str, folder: Path) -> None:
    """Copy the artifacts; where they cannot be reached, as the store is a copy without them, there are none."""
    folder.mkdir()
    for artifact in client.list_artifacts(run_id):
        client.download_artifacts(run_id, artifact.path, str(folder))


def _copy_model(client: Any, run: Any, record: Record) -> bool:
    """Copy the run's model as it is; return whether it has one that can be reached."""
    from mlflow.artifacts import download_artifacts

    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        return False
    location = client.get_logged_model(outputs[0].model_id).artifact_location
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = Path(download_artifacts(location, dst_path=scratch, tracking_uri=client.tracking_uri))
        except OSError:
            return False
        model = record.folder / "model"
        model.mkdir()
        shutil.copytree(found, model / "mlflow")
    (model / "parts.json").write_text(json.dumps(asdict(Parts("mlflow"))) + "\n", encoding="utf-8")
    return True
