"""Where runs are kept: SQLite in the project unless the settings or the environment say otherwise."""

import atexit
import contextlib
import functools
import logging
import os
import re
import socket
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipeline.address import reason, redact
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.locks import locked

SOURCE_ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = (
    "Each run is one training of one net on one dataset. `loss`, `accuracy`, `val_loss`, `val_accuracy` "
    "have one point an epoch; `test_*` are measured once, on rows that no training saw (but where "
    "`preprocess.pool_test` is true). Params are the settings that the run used: the net's own by their bare names, "
    "those of its data by section."
)

SQLITE = "sqlite:///"
SCHEMES = re.compile(r"(sqlite|https?|(postgresql|mysql|mssql)(\+\w+)?|databricks(-uc)?)(:|$)", re.IGNORECASE)
DATABASES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?:", re.IGNORECASE)
# MLflow's own values let a dead server block its client for minutes; what fails here is tried again later
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; of silence, not of the whole transfer
    "PGCONNECT_TIMEOUT": "10",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends
}
MOUNTS = Path("/proc/mounts")
NETWORK_DISKS = re.compile(r"nfs|cifs|smb|afs|ceph|lustre|gpfs|beegfs|fuse(\.|$)")  # fuseblk is a local disk
BUSY = "database is locked"
BUSY_TRIES = 8  # the waits between them double, from 50 ms: 6 s in all
ON_NODE = "PIPELINE_NODE"  # in the environment of what a cluster runs: its name for that worker

SYNC = "`python -m pipeline.sync` brings what is missing"

T = TypeVar("T")

log = logging.getLogger(__name__)


def store_root() -> Path:
    """Return the folder of the default store: the project, also from DVC's copies of it under .dvc/tmp/exps."""
    return Path(os.environ.get("DVC_ROOT") or SOURCE_ROOT)


def records_folder() -> Path:
    """Return where the records of runs stand: records/ in the project, or what PIPELINE_RECORDS names."""
    return Path(os.environ.get("PIPELINE_RECORDS") or store_root() / "records").absolute()


def tracking_uri(settings: Settings) -> str:
    """Return the address of the store: `tracking.uri`, else MLFLOW_TRACKING_URI, else SQLite in the project.

    Raises:
        SettingsError: `tracking.server` asks for a server, and the address is none of one.
    """
    uri = settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if settings.tracking.server and not is_server(uri or ""):
        raise SettingsError(
            "tracking.uri: with tracking=server it, or MLFLOW_TRACKING_URI, must be a tracking server's address like "
            f"https://mlflow.example.com, but got {redact(uri) if uri else 'none'}; see conf/tracking/server.yaml"
        )
    return absolute(uri or f"{SQLITE}mlflow.db")


def is_server(uri: str) -> bool:
    """Return whether an address is a tracking server's."""
    return uri.lower().startswith(("http://", "https://"))


def absolute(uri: str) -> str:
    """Return an address whose SQLite file, if it is relative, stands in the project.

    >>> absolute("sqlite:////tmp/a.db")
    'sqlite:////tmp/a.db'
    """
    return f"{SQLITE}{store_root() / uri.removeprefix(SQLITE)}" if uri.startswith(SQLITE) else uri


def check_uri(uri: str) -> None:
    """Raise SettingsError where an address is, at a glance, none of a store: what can be told without asking it."""
    if not SCHEMES.match(uri):
        raise SettingsError(
            f"tracking.uri: an address like sqlite:///mlflow.db or http://host:5000 is needed, but got {redact(uri)}"
        )
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or not path.exists():
        return
    if path.is_dir():
        raise SettingsError(f"tracking.uri: {uri} cannot be opened: it is a folder")
    if not _is_database(path):
        raise SettingsError(f"tracking.uri: {uri} cannot be opened: the file is not a database")


def _is_database(file: Path) -> bool:
    """Return whether a file is a SQLite database, or empty; in doubt yes.

    SQLite is asked, as a process that opens and closes such a file by itself frees the locks of all its connections
    to it: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        return error.sqlite_errorname != "SQLITE_NOTADB"
    return True


def be_quick_to_give_up(uri: str) -> None:
    """Let MLflow's client of this process wait seconds for a store, not minutes, unless the environment says so.

    Raises:
        SQLAlchemyError: a database does not let one in; MLflow would try for two minutes.
        ImportError: its driver is missing.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    if not is_server(uri):
        _close_at_exit()
    if DATABASES.match(uri):
        _knock(uri)


@functools.cache
def _close_at_exit() -> None:
    """Have this process's connections to databases closed as it ends; MLflow leaves that to the garbage collector.

    Who closes a SQLite file last moves into it what is still in its write-ahead log: https://www.sqlite.org/wal.html.
    """
    from sqlalchemy import Connection, Engine, event

    used: weakref.WeakSet[Engine] = weakref.WeakSet()

    def close() -> None:
        for engine in list(used):
            engine.dispose()

    def note(connection: Connection) -> None:
        used.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    atexit.register(close)


@functools.cache
def _knock(uri: str) -> None:
    """Connect to a database, once a process."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


_told: set[str] = set()  # the stores of which it has been said that they cannot be reached


def say_away(uri: str, why: str, kept: str) -> None:
    """Say that a store cannot be reached, once a store and process: what follows from it is the same.

    Args:
        uri: its address.
        why: in a few words.
        kept: what becomes of what it was to get.
    """
    if redact(uri) not in _told:
        _told.add(redact(uri))
        log.warning("%s: the tracking store cannot be reached (%s): %s", redact(uri), why, kept)


def kept(record_id: str) -> str:
    """Return what becomes of a run that a store has not got, for `say_away`."""
    if ON_NODE in os.environ:  # of a cluster: whoever reads this is elsewhere
        return f"the run is kept on {socket.gethostname()} in {records_folder() / record_id}, and there {SYNC}"
    return f"the run is kept in records/{record_id}, and {SYNC}"


def told_away() -> list[str]:
    """Return the stores of which `say_away` has told."""
    return sorted(_told)


def note_away(uris: Iterable[str]) -> None:
    """Take note that another process has told it of these stores: this one does not."""
    _told.update(uris)


def say_back(uri: str) -> None:
    """Say that a store of which `say_away` has told answers again."""
    if redact(uri) in _told:
        _told.discard(redact(uri))
        log.info("%s: the tracking store answers again, and gets what it missed", redact(uri))


def open_store(settings: Settings) -> str:
    """Point MLflow at the store, made on first use by one process at a time, and return the experiment's id.

    Raises:
        SettingsError: the store cannot be opened.
    """
    import mlflow

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    return open_experiment(uri, settings.tracking.experiment)


def open_experiment(uri: str, name: str) -> str:
    """Return the id of an experiment, which is made if need be, as is the store.

    Raises:
        SettingsError: the store cannot be opened.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    check_uri(uri)
    try:
        be_quick_to_give_up(uri)
        with _made(uri):
            client = mlflow.MlflowClient(uri)  # its first call makes the tables
            experiment = client.get_experiment_by_name(name)
            if experiment:
                return str(experiment.experiment_id)
            return str(client.create_experiment(name, _artifacts(uri), tags={"mlflow.note.content": DESCRIPTION}))
    except (MlflowException, *database_errors(), OSError) as error:
        # not `from error`: a traceback shows the chain, and MLflow's message holds the password
        raise SettingsError(f"tracking.uri: {redact(uri)} cannot be opened: {reason(error)}") from None


def database_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a database raises through MLflow as they are."""
    if "sqlalchemy" not in sys.modules:  # the client of a server needs none
        return (sqlite3.Error, ImportError)  # ImportError: the driver of a database is missing
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError, sqlite3.Error, ImportError)


def patiently(uri: str, write: Callable[[], T]) -> T:
    """Return what `write` returns; on a SQLite store alone among this project's writers, and again while it is busy.

    SQLite has one writer at a time. Its own waiting does not help a transaction that has read before it writes, as
    MLflow's do: that one fails at once (SQLITE_BUSY_SNAPSHOT). So writers queue here, and whom another program
    disturbs tries again; MLflow's writes are whole or not at all.
    """
    if not uri.startswith(SQLITE):
        return write()
    lock = Path(f"{uri.removeprefix(SQLITE)}.write.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    for number in range(BUSY_TRIES):
        try:
            with locked(lock):
                return write()
        except Exception as error:  # SQLAlchemy's, SQLite's or MLflow's own, according to where it happens
            if BUSY not in str(error) or number == BUSY_TRIES - 1:
                raise
        time.sleep(0.05 * 2**number)
    raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def _made(uri: str) -> Iterator[None]:
    """Hold the lock of a SQLite store; it is put into WAL mode, so that readers and a writer do not wait."""
    if not uri.startswith(SQLITE):
        yield
        return
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(f"{database}.lock")):
        if not database.exists():
            log.info("%s: made for MLflow's runs", database)
        if is_on_local_disk(database.parent):
            _put_into_wal(database)
        yield


def _put_into_wal(database: Path) -> None:
    """Put a database into WAL mode, in which it stays; one that is in use or read-only keeps its mode for now."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=1)) as connection,
        contextlib.suppress(sqlite3.OperationalError),
    ):
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")


def is_on_local_disk(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether a folder stands on no network's file system, as far as the system tells.

    SQLite's WAL mode is for processes that share memory: https://www.sqlite.org/wal.html.

    Args:
        folder: one that exists.
        mounts: a file of the kernel's, a mount a line: device, folder, type, options.
    """
    if not mounts.exists():  # not Linux
        return True
    found = folder.resolve()
    mounted = {}  # of two on one folder, the later hides the earlier
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, at, kind, *_ = line.split(" ")
        mounted[Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), at))] = kind
    kinds = [mounted[above] for above in (found, *found.parents) if above in mounted]
    return not kinds or not NETWORK_DISKS.match(kinds[0])


def _artifacts(uri: str) -> str | None:
    """Return where the files of runs go: beside a SQLite file, in the project of another database's user.

    A server decides for itself. MLflow's own choice for a database, mlruns/ wherever the process happens to stand,
    would be files that git takes for a part of the code, and so a part of every run's diff.
    """
    if uri.startswith(("http://", "https://")):
        return None
    folder = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else store_root()
    return (folder / "mlartifacts").as_uri()


def client_of(uri: str) -> Any:
    """Return MLflow's client of a store, which waits seconds for it, not minutes.

    Raises:
        Exception: of `database_errors`, where a database does not let one in.
    """
    import mlflow

    be_quick_to_give_up(uri)
    return mlflow.MlflowClient(uri)
