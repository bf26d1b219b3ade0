"""The record of a run on disk: plain files, written as the run goes. MLflow shows what stands here.

    run.json        what is known at the start: name, params, datasets, parent
    metrics.jsonl   a line an epoch, appended: {"time": ms, "step": 1, "metrics": {"loss": 0.5, ...}}
    state.json      what changes: tags, how it ended, whether an MLflow model is to be made of it
    artifacts/      settings.yaml, code.diff, weights.npz, history.csv, pictures/...
    model/          what the MLflow model is made from, see models.py
    delivered.json  by store: what it has got of all this

Each write is whole or not at all, also if the process is killed in it: files are replaced, and a last line of
metrics.jsonl that is cut is no line. run.json and state.json are on the disk before they take their places, so that a
power cut leaves the old or the new one, too. This module imports neither mlflow nor numpy.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.address import redact
from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.tracking.locks import hold, is_held, locked
from pipeline.tracking.store import records_folder

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # as MLflow names them
DIED = "its process ({pid} on {host}) died before it ended the run: killed, out of memory, or the machine went down"
DAMAGED = "{path}: is damaged ({error}): bring the file back, or remove the folder {folder}"
SCRATCH = re.compile(r"\..+\.[a-z0-9_]{8}")  # the folder of a half-written file, see `replacing`
T = TypeVar("T")

log = logging.getLogger(__name__)


def now() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Opening:
    """What is known of a run as it starts.

    Attributes:
        name: the run's name.
        store: the address of the store that it goes to, without user, password and query.
        experiment: the MLflow experiment.
        params: by name.
        datasets: of each its name, digest, source, n_rows and context.
        parent: the record of the run that this one is part of; or None.
        start_time: milliseconds since 1970.
        pid: the process that writes the record.
        host: its machine.
    """

    name: str
    store: str
    experiment: str
    params: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    parent: str | None = None
    start_time: int = field(default_factory=now)
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True)
class State:
    """What of a run changes.

    Attributes:
        status: RUNNING, FINISHED, FAILED or KILLED.
        end_time: milliseconds since 1970; None while it runs.
        tags: by name.
        model: whether MLflow is to have a model made from model/.
    """

    status: str = RUNNING
    end_time: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    model: bool = False


@dataclass(frozen=True)
class Points:
    """The metrics of one moment: milliseconds since 1970, the step, the values by name."""

    time: int
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Delivered:
    """What a store has got of a record.

    Attributes:
        run_id: the run in MLflow; None: not even that.
        offset: how many bytes of metrics.jsonl.
        tags: those that it has.
        artifacts: by name their stamps, see `Record.artifacts`.
        model_id: the MLflow model; None: there is none.
        ended: the status and the end time that it knows.
        whole: the fingerprint of the ended record of which it has all; None: something is missing.
    """

    run_id: str | None = None
    offset: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    model_id: str | None = None
    ended: tuple[str, int | None] = (RUNNING, None)
    whole: str | None = None


class Record:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self._own = folder / "state.lock"

    @classmethod
    def create(
        cls, opening: Opening, tags: Mapping[str, str], record_id: str | None = None, folder: Path | None = None
    ) -> "Record":
        """Return a new record, or the one that has this id; run.json comes last: without it a folder is no record."""
        record = cls((folder or records_folder()) / (record_id or uuid.uuid4().hex))
        record.folder.mkdir(parents=True, exist_ok=True)
        with locked(record._own):
            if not (record.folder / "run.json").exists():
                _write_through(record.folder / "state.json", asdict(State(tags=dict(tags))))
                _write_through(record.folder / "run.json", asdict(opening))
        return record

    @classmethod
    def begin(
        cls, opening: Opening, tags: Mapping[str, str], record_id: str | None = None
    ) -> "tuple[Record, BinaryIO]":
        """Return a record as `create` does, and what marks it as in use, which it is before it is there."""
        record_id = record_id or uuid.uuid4().hex
        record = cls(records_folder() / record_id)
        record.folder.mkdir(parents=True, exist_ok=True)
        in_use = record.use()
        return cls.create(opening, tags, record_id), in_use

    @property
    def opening(self) -> Opening:
        """Return what was known at the start.

        Raises:
            DataError: the file is damaged.
            FileNotFoundError: it is not there.
        """
        return _read(self.folder / "run.json", Opening)

    @property
    def meant_for(self) -> str | None:
        """Return the address without secrets of the store that the record goes to; None where it cannot be read."""
        with contextlib.suppress(DataError, OSError):
            return self.opening.store
        return None

    @property
    def state(self) -> State:
        """Return what changes, as it now is.

        Raises:
            DataError: the file is damaged.
            FileNotFoundError: it is not there.
        """
        return _read(self.folder / "state.json", State)

    @property
    def begun(self) -> int:
        """Return when the record was begun on this disk, in nanoseconds; where it was copied to, when it was that."""
        return (self.folder / "run.json").stat().st_mtime_ns

    def change(self, tags: Mapping[str, str] | None = None, **fields: Any) -> None:
        """Set tags, which are freed of passwords, and the given fields of the state."""
        with locked(self._own):
            self._change(tags, **fields)

    def _change(self, tags: Mapping[str, str] | None = None, **fields: Any) -> None:
        state = self.state
        merged = state.tags | {name: redact(value) for name, value in (tags or {}).items()}
        _write_through(self.folder / "state.json", asdict(replace(state, tags=merged, **fields)))

    def send_to(self, store: str) -> None:
        """Note the store that the record goes to from now on, by its address without secrets."""
        with locked(self._own):
            opening = self.opening
            if opening.store != store:
                _write_through(self.folder / "run.json", asdict(replace(opening, store=store)))

    def end_if_dead(self) -> bool:
        """End the record as KILLED if nobody writes it any more; return whether that was so."""
        with locked(self._own):  # others ask this at the same time, or open the record again
            if self.state.status != RUNNING or self.is_in_use:
                return False
            opening = self.opening
            died = DIED.format(pid=opening.pid, host=opening.host)
            self._change({"error": died}, status=KILLED, end_time=self._last_sign())
        return True

    def _last_sign(self) -> int:
        """Return when the record was last written to, in milliseconds."""
        paths = (self.folder / name for name in ("run.json", "metrics.jsonl", "state.json"))
        return max(path.stat().st_mtime_ns for path in paths if path.exists()) // 1_000_000

    def use(self) -> BinaryIO:
        """Return what marks the record as in use, by this process among others, until it is closed or this dies."""
        return hold(self.folder / "use.lock", shared=True)

    @property
    def is_in_use(self) -> bool:
        """Return whether a process still writes the record, or delivers it."""
        return is_held(self.folder / "use.lock")

    def delivering(self) -> Any:
        """Return the lock that whoever delivers the record holds, as a context manager."""
        return locked(self.folder / "delivery.lock")

    def points(self, offset: int = 0) -> Iterator[tuple[Points, int]]:
        """Yield the lines of metrics.jsonl from `offset` on, each with the offset behind it; none that is broken."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                found = _points(line)
                if found:
                    yield found, offset

    @property
    def points_size(self) -> int:
        """Return the bytes of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def write_artifact(self, name: str, content: bytes) -> None:
        """Write an artifact; a name with slashes stands in folders."""
        with replacing(self.folder / "artifacts" / name) as new:
            new.write_bytes(content)
        os.utime(self.folder / "artifacts")  # which shows that something below it has changed, see ledger.py

    def write_text(self, name: str, text: str) -> None:
        """Write a text as an artifact; what in it was no UTF-8 is as it was."""
        self.write_artifact(name, text.encode("utf-8", "surrogateescape"))

    def artifacts(self) -> dict[str, str]:
        """Return the artifacts by name, and of each a stamp that changes with it; those half-written are none."""
        return dict(sorted(_stamps(str(self.folder / "artifacts"))))

    def fingerprint(self) -> str:
        """Return a digest of all that a store is to have of the record."""
        parts = [self.points_size, asdict(self.state), self.artifacts()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def delivered(self, store: str) -> Delivered:
        """Return what a store has got, by its address without secrets: nothing, where the note is damaged."""
        try:
            found = self._all_delivered()[store]
            return Delivered(**found | {"ended": tuple(found["ended"])})
        except (KeyError, TypeError):
            return Delivered()

    def save_delivered(self, store: str, delivered: Delivered) -> None:
        """Keep what a store has got."""
        _write(self.folder / "delivered.json", self._all_delivered() | {store: asdict(delivered)})

    def _all_delivered(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, DataError):  # done again, what was brought changes nothing
            return _read(self.folder / "delivered.json", dict)
        return {}

    def waits_for(self, store: str) -> bool:
        """Return whether a store lacks something of the record, or its end; also where the record is damaged."""
        with contextlib.suppress(DataError, OSError):
            whole = self.delivered(store).whole
            return whole is None or whole != self.fingerprint()
        return True


class PointsWriter:
    """Appends to metrics.jsonl, each line by one write; a full disk delays points, but ends no training."""

    def __init__(self, record: Record) -> None:
        self._path = record.folder / "metrics.jsonl"
        self._file = self._path.open("ab", buffering=0)
        self._waiting = b"\n" if _is_cut(record) else b""

    def append(self, step: int, metrics: Mapping[str, float], at: int | None = None) -> None:
        """Append the metrics of a step; `at` is in milliseconds since 1970, None: now."""
        line = {"time": now() if at is None else at, "step": step, "metrics": dict(metrics)}
        self._waiting += json.dumps(line).encode() + b"\n"
        self.flush()

    def flush(self) -> bool:
        """Write what waits; return whether all of it could be written."""
        try:
            written = self._file.write(self._waiting) or 0
        except OSError:
            return False
        self._waiting = self._waiting[written:]
        return not self._waiting

    def close(self) -> None:
        """Write what waits, and close.

        Raises:
            OSError: the disk is full: the last points are lost; names the file.
        """
        with self._file:
            if self.flush():
                return
            try:
                self._file.write(self._waiting)  # raises what flush has kept back
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from error


def all_records(folder: Path | None = None) -> list[Record]:
    """Return the records on this disk, oldest first."""
    folder = folder or records_folder()
    begun: dict[Record, int] = {}
    for record in map(Record, folder.iterdir() if folder.is_dir() else ()):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            begun[record] = record.begun
    return sorted(begun, key=begun.__getitem__)


def find_record(record_id: str) -> Record:
    """Return a record by its id.

    Raises:
        DataError: there is none.
    """
    record = Record(records_folder() / record_id)
    if not (record.folder / "run.json").is_file():
        raise DataError(f"{record.folder}: no such record of a run")
    return record


def record_of_weights(weights_sha256: str, store: str) -> Record | None:
    """Return the newest record for a store whose run has made these weights and is no reproduction; or None."""
    for record in reversed(all_records()):
        try:
            tags = record.state.tags
        except (DataError, OSError) as error:
            log.warning("%s", error)
            continue
        fits = tags.get("weights_sha256") == weights_sha256 and "reproduces" not in tags
        if fits and record.meant_for == store:
            return record
    return None


def _points(line: bytes) -> Points | None:
    """Return what a line says; None where it is cut, or is no such line."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
        metrics = {str(name): float(value) for name, value in found["metrics"].items()}
        return Points(int(found["time"]), int(found["step"]), metrics)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_cut(record: Record) -> bool:
    """Return whether metrics.jsonl ends within a line."""
    if not record.points_size:
        return False
    with (record.folder / "metrics.jsonl").open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _stamps(folder: str, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the files in a folder and below by their names, with stamps; what goes as we look is none.

    The folders in which `replacing` writes are passed over: what is in them is not yet whole.
    """
    try:
        with os.scandir(folder) as entries:
            whole = [entry for entry in entries if not (SCRATCH.fullmatch(entry.name) and entry.is_dir())]
    except FileNotFoundError:
        return
    for entry in whole:
        if entry.is_dir():
            yield from _stamps(entry.path, f"{above}{entry.name}/")
            continue
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat()
            yield f"{above}{entry.name}", f"{found.st_size}-{found.st_mtime_ns}"


def _read(path: Path, kind: Callable[..., T]) -> T:
    try:
        return kind(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(DAMAGED.format(path=path, error=error, folder=path.parent)) from error


def _write(path: Path, content: Any) -> None:
    with replacing(path) as new:
        new.write_text(_text(content), encoding="utf-8")


def _write_through(path: Path, content: Any) -> None:
    """Write what a power cut must not take; it costs a millisecond or some, according to the disk."""
    with replacing(path) as new, new.open("w", encoding="utf-8") as file:
        file.write(_text(content))
        file.flush()
        os.fsync(file.fileno())


def _text(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
