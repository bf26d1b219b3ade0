"""The runs of another store as records on this disk, from which they can be brought to this project's store.

Done again, what has been added there since is added here. Of a SQLite store that was copied with its folder
mlartifacts/ the files are found beside it, wherever they stood when they were logged. An address in a store may name
any folder of this disk, so that files are taken from the store's own folder alone.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from pipeline.address import reason, redact
from pipeline.errors import DataError, SettingsError
from pipeline.files import replacing
from pipeline.tracking.delivery import PARENT_TAG
from pipeline.tracking.locks import locked
from pipeline.tracking.models import RECORD_TAG, Parts, has_parts
from pipeline.tracking.records import KILLED, RUNNING, Opening, PointsWriter, Record, now
from pipeline.tracking.store import SQLITE, check_uri, client_of, database_errors, store_root

PAGE = 1000
SHORT_ID = 8
SOURCE_TAG = "imported_from"  # the run in the other store
STATUS_TAG = "imported_status"  # that it had there; one that is RUNNING is KILLED here until it is brought again
STAMP_FILE = "imported.sha256"  # in a record: of what the other store had
LOCK_FILE = ".import.lock"  # among the records: one run is imported at a time
RECORD_ID = re.compile("[0-9a-f]{32}")  # no other text of a store becomes a folder's name
FOLDERS = ("mlartifacts", "mlruns")  # what a store's files stand in
POINTING = ("runs", "models")  # schemes of addresses that MLflow follows to others, which may be any folder

log = logging.getLogger(__name__)


def import_runs(uri: str, experiment: str, key: str, folder: Path) -> tuple[list[Record], int]:
    """Return the runs of a store as records, parents first, and the number of those whose files cannot be had.

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
    try:
        if uri.startswith(SQLITE):
            _check_is_store(uri)
        source = Source(client_of(uri), uri)
        runs = _runs(source.client, uri, experiment)
        ids = {run.info.run_id: _record_id(run) for run in runs}
        runs.sort(key=lambda run: (PARENT_TAG in run.data.tags, run.info.start_time))
        records: list[Record] = []
        left_out: set[str] = set()
        for run in runs:
            parent = run.data.tags.get(PARENT_TAG)
            try:
                if parent in left_out and not _is_there(folder, ids[parent]):  # without it the run is never its part
                    raise DataError(f"so is the run {parent[:SHORT_ID]} that it is part of")
                records.append(_import(source, run, ids, key, folder))
            except Exception as error:  # of MLflow, a database, the network or S3; or of what a hostile store holds
                why = _why_left_out(source, error, folder)
                left_out.add(run.info.run_id)
                log.warning("%s  %s: left out: %s", run.info.run_id[:SHORT_ID], run.info.run_name, why)
    except (MlflowException, *database_errors()) as error:
        raise SettingsError(f"--from: {redact(uri)} cannot be read: {reason(error)}") from None
    return records, len(left_out)


def _check_is_store(uri: str) -> None:
    """Raise SettingsError where a SQLite file is none of MLflow's: MLflow would write its tables into it."""
    file = Path(uri.removeprefix(SQLITE))
    if not file.is_file():
        raise SettingsError(f"--from: {uri}: no such file")
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            raise SettingsError(f"--from: {uri}: a store of MLflow's is needed, but it has no table experiments")


def _is_there(folder: Path, record_id: str) -> bool:
    return (folder / record_id / "run.json").exists()


def _why_left_out(source: "Source", error: Exception, folder: Path) -> str:
    """Return why a run cannot be brought; raise what concerns others, too: no record can be written, a store away."""
    if isinstance(error, FileNotFoundError):
        return f"its files are not there: {error.filename}"
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, OSError) and str(error.filename).startswith(str(folder)):
        raise error
    source.client.search_experiments(max_results=1)
    return reason(error)


class Source:
    """The other store.

    Attributes:
        client: MLflow's.
        folder: of a SQLite file; of another store, this project's, as `store.open_experiment` has it. Only what
            stands in its FOLDERS is the store's: the folder itself may be anyone's home.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self.client = client
        self.folder = (Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else store_root()).resolve()

    def local(self, uri: str) -> Path | None:
        """Return the folder that an address of files names, where it stood or beside the database; None: no folder.

        Raises:
            FileNotFoundError: it is in neither place.
            DataError: it is elsewhere.
        """
        address = urlparse(uri)
        if address.scheme in POINTING:
            raise DataError(f"--from: an address of files that names no other is needed, but got {uri}")
        if address.scheme not in ("", "file"):
            return None
        noted = Path(unquote(address.path))
        places = [noted]
        for name in FOLDERS:
            if name in noted.parts:
                behind = len(noted.parts) - noted.parts[::-1].index(name)
                places.append(self.folder.joinpath(name, *noted.parts[behind:]))
        there = [place for place in places if place.is_dir()]
        if not there:
            raise FileNotFoundError(2, os.strerror(2), str(noted))
        for place in there:
            if any(place.resolve().is_relative_to(self.folder / name) for name in FOLDERS):
                return place
        own = self.folder / FOLDERS[0]
        raise DataError(f"--from: files below {own} are needed, but got {noted}: copy them there")

    def files(self, run: Any) -> dict[str, int]:
        """Return the artifacts of a run by name, with their sizes.

        Raises:
            FileNotFoundError: the run has some, but they are not there.
            DataError: they are elsewhere on this disk.
        """
        try:
            folder = self.local(run.info.artifact_uri)
        except FileNotFoundError:
            if "weights_sha256" in run.data.tags or _models(run):
                raise
            return {}  # MLflow makes a run's folder with its first file
        if folder is None:
            return dict(self._listed(run.info.run_id, None))
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files_below(folder)}

    def _listed(self, run_id: str, folder: str | None) -> Iterator[tuple[str, int]]:
        for one in self.client.list_artifacts(run_id, folder):
            if one.is_dir:
                yield from self._listed(run_id, one.path)
            elif ".." in PurePosixPath(one.path).parts or one.path.startswith("/"):
                raise DataError(f"--from: run {run_id}: an artifact's name must stay below it, but got {one.path!r}")
            else:
                yield one.path, one.file_size

    def read(self, run: Any, name: str) -> bytes:
        """Return what an artifact holds."""
        folder = self.local(run.info.artifact_uri)
        if folder:
            return (folder / name).read_bytes()
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.client.download_artifacts(run.info.run_id, name, scratch)).read_bytes()


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below; raise DataError where there is a link, which may lead anywhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise DataError(f"--from: files below {folder} are needed, but {path} is a link to {path.readlink()}")
        if path.is_file():
            yield path


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


def _import(source: Source, run: Any, ids: dict[str, str], key: str, folder: Path) -> Record:
    """Return the record of a run, made in one piece, or with what has been added to the run since."""
    record = Record(folder / ids[run.info.run_id])
    files = source.files(run)
    stamp = _stamp(run, files)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_FILE):  # or of two imports at once, one takes a record away that the other is bringing
        if not _is_there(folder, record.id):
            with replacing(record.folder) as new:
                made = Record.create(opening_of(source.client, run, ids, key), {}, new.name, new.parent)
                _fill(source, run, made, files)
                (made.folder / STAMP_FILE).write_text(stamp, encoding="utf-8")
        elif record.state.tags.get(SOURCE_TAG) == run.info.run_id and _last_stamp(record) != stamp:
            _fill(source, run, record, files)
            with replacing(record.folder / STAMP_FILE) as new:
                new.write_text(stamp, encoding="utf-8")
    return record


def _stamp(run: Any, files: dict[str, int]) -> str:
    """Return a digest that changes with whatever is added to a run."""
    metrics = sorted((one.key, repr(one.value), one.step, one.timestamp) for one in run.data._metric_objs)
    parts = [run.info.status, run.info.end_time, run.data.tags, metrics, files, _models(run)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _last_stamp(record: Record) -> str:
    path = record.folder / STAMP_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _models(run: Any) -> list[str]:
    return [one.model_id for one in run.outputs.model_outputs] if run.outputs else []


def opening_of(client: Any, run: Any, ids: dict[str, str], key: str) -> Opening:
    """Return what was known of a run as it started.

    Args:
        client: of the store that has it.
        run: as MLflow has it.
        ids: the records of runs that may be its parent, by their ids in MLflow.
        key: the address of the store, without user, password and query.
    """
    parent = run.data.tags.get(PARENT_TAG)
    return Opening(
        name=run.info.run_name,
        store=key,
        experiment=client.get_experiment(run.info.experiment_id).name,
        params=run.data.params,
        datasets=[_dataset(one) for one in run.inputs.dataset_inputs],
        parent=ids.get(parent, parent),
        start_time=run.info.start_time,
    )


def _fill(source: Source, run: Any, record: Record, files: dict[str, int]) -> None:
    """Add to a record what it lacks of a run."""
    _copy_points(source.client, run, record)
    for name in files:
        content = source.read(run, name)
        there = record.folder / "artifacts" / name
        if not there.is_file() or there.read_bytes() != content:
            record.write_artifact(name, content)
    has_model = _copy_model(source, run, record)
    own = {SOURCE_TAG: run.info.run_id, STATUS_TAG: run.info.status}
    tags = {name: value for name, value in run.data.tags.items() if name not in (RECORD_TAG, PARENT_TAG)} | own
    status = KILLED if run.info.status == RUNNING else run.info.status
    ended = run.info.end_time or record.state.end_time or now()
    record.change(tags, status=status, end_time=ended, model=has_model)


def _dataset(one: Any) -> dict[str, Any]:
    contexts = [tag.value for tag in one.tags if tag.key == "mlflow.data.context"]
    return {
        "name": one.dataset.name,
        "digest": one.dataset.digest,
        "source": one.dataset.source,
        "n_rows": _n_rows(one.dataset.profile),
        "context": contexts[0] if contexts else "",
    }


def _n_rows(profile: str | None) -> int | None:
    """Return the number of rows that a dataset's profile tells, which may be any text; None: it tells none."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(profile or "")["num_rows"]
        return found if isinstance(found, int) else None
    return None


def _copy_points(client: Any, run: Any, record: Record) -> None:
    """Write each point that is not there with its own time and step; a line has those of one moment, once a name."""
    known = {
        (one.time, one.step, name, repr(one.metrics[name])) for one, _ in record.points() for name in one.metrics
    }
    lines: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    for name in run.data.metrics:
        n_points: Counter[tuple[int, int]] = Counter()  # of one moment: MLflow tells points apart by value, too
        for point in client.get_metric_history(run.info.run_id, name):
            moment = point.timestamp, point.step
            if (*moment, name, repr(point.value)) not in known:
                lines[*moment, n_points[moment]][name] = point.value
                n_points[moment] += 1
    writer = PointsWriter(record)
    for (at, step, _), metrics in sorted(lines.items()):
        writer.append(step, metrics, at)
    writer.close()


def _copy_model(source: Source, run: Any, record: Record) -> bool:
    """Copy the run's model as it is, unless it is there; return whether there is one."""
    from mlflow.artifacts import download_artifacts

    if has_parts(record) or not _models(run):
        return has_parts(record)
    location = source.client.get_logged_model(_models(run)[0]).artifact_location
    with tempfile.TemporaryDirectory() as scratch:
        found = source.local(location) or Path(
            download_artifacts(location, dst_path=scratch, tracking_uri=source.client.tracking_uri)
        )
        model = record.folder / "model"
        model.mkdir(exist_ok=True)
        for path in _files_below(found):
            copy = model / "mlflow" / path.relative_to(found)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    (model / "parts.json").write_text(json.dumps(asdict(Parts("mlflow"))) + "\n", encoding="utf-8")
    return True
