"""The studies: one journal file each in studies/, or a database that is named; both serve several processes."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.address import reason, redact
from pipeline.errors import SettingsError, SweepError
from pipeline.study.checks import make_folder
from pipeline.study.options import Direction

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

STUDIES = Path("studies")
WAIT_SECONDS = 60  # for another process's write to SQLite
CONNECT_SECONDS = 10  # until a server answers
JOURNAL_BEGINS = b'{"op_code":'
OWN_TABLE = "studies"  # in each database of Optuna's


def open_study(storage: str | None, name: str, direction: Direction) -> "optuna.Study":
    """Return a study, made where there is none.

    A journal file costs the least of what Optuna offers: 1.5 ms a write and 23 ms to make, where SQLite takes 15 ms
    and 1.2 s; and a process that is killed in a write leaves half a line at most, which the next one cuts off.

    Args:
        storage: an address, a file, or None for studies/<name>.journal.
        name: the study's.
        direction: minimize or maximize, for a new one.

    Raises:
        SettingsError: the storage cannot be opened.
    """
    import optuna

    with _told("hydra.sweeper.storage", str(storage)):
        return optuna.create_study(
            storage=_storage(storage or default_file(name)), study_name=name, direction=direction, load_if_exists=True
        )


def find_study(storage: str, name: str, asked: str) -> "optuna.Study | None":
    """Return a study of a storage, or None where it has none of that name.

    Args:
        storage: an address or a file; a database gets Optuna's tables if it has none.
        name: the study's.
        asked: the option that has named the storage.

    Raises:
        SettingsError: the storage cannot be opened, or is a file that is not there.
    """
    import optuna

    path = Path(storage.removeprefix("sqlite:///"))
    with _told(asked, storage):
        if ("://" not in storage or storage.startswith("sqlite:///")) and not path.is_file():
            raise SettingsError(f"{asked}: {storage}: no such file")
        try:
            return optuna.load_study(study_name=name, storage=_storage(storage))
        except KeyError:
            return None


def default_file(name: str) -> str:
    """Return the file of a study that names no storage."""
    return str(STUDIES / f"{name}.journal")


@contextlib.contextmanager
def _told(asked: str, storage: str) -> Iterator[None]:
    """Tell in one line why a storage cannot be opened."""
    import optuna

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:  # Optuna's, SQLAlchemy's, a missing driver's, the file system's
        raise SettingsError(f"{asked}: {redact(storage)} cannot be opened: {reason(error)}") from None


def failures() -> tuple[type[Exception], ...]:
    """Return what Optuna raises where a storage that was opened can no longer be used."""
    from optuna.exceptions import StorageInternalError

    if "sqlalchemy" not in sys.modules:  # a journal needs none
        return (StorageInternalError,)
    from sqlalchemy.exc import SQLAlchemyError

    return (StorageInternalError, SQLAlchemyError)


@contextlib.contextmanager
def expected(name: str) -> Iterator[None]:
    """Tell in one line that the storage of a study has gone away.

    Raises:
        SweepError: it has.
    """
    try:
        yield
    except failures() as error:
        why = reason(error.__cause__ or error)
        told = f"study {name}: its storage can no longer be used ({why}); what is trained is kept"
        raise SweepError(f"{told}, and the same command goes on") from None


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the lock of a study: one process of this machine sets it up or ends it at a time."""
    from filelock import FileLock

    make_folder(STUDIES)
    with FileLock(STUDIES / f"{name}.lock"):
        yield


def _storage(address: str) -> "BaseStorage":
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in address:
        _check_tables(address)
        return RDBStorage(address, engine_kwargs=_engine(address))
    path = Path(address).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_journal(path)
    backend = JournalFileBackend(str(path), _journal_lock(path))
    return JournalStorage(backend)


def _engine(address: str) -> dict[str, Any]:
    """Return SQLAlchemy's options for a database: what it waits for, and that a server may be started anew."""
    waits = {"sqlite": {"timeout": WAIT_SECONDS}, "postgresql": {"connect_timeout": CONNECT_SECONDS}}
    return {
        "connect_args": waits.get(re.split("[:+]", address)[0], {}),
        "pool_pre_ping": not address.startswith("sqlite"),
    }


def _check_tables(address: str) -> None:
    """Raise SettingsError where a database holds tables, but none of Optuna's: Optuna would add its own to them."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(address, **_engine(address))
    try:
        names = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if names and OWN_TABLE not in names:
        raise SettingsError(
            f"hydra.sweeper.storage: {redact(address)} holds another program's tables ({sorted(names)[0]}, ...); "
            "name a database of its own"
        )


def _check_journal(path: Path) -> None:
    """Raise SettingsError where a file is no journal: the first write would cut off its last line."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        begins = file.read(len(JOURNAL_BEGINS))
    if not JOURNAL_BEGINS.startswith(begins):
        raise SettingsError(f"hydra.sweeper.storage: {path.name} is not a journal of studies; name another file")


def _journal_lock(path: Path) -> "optuna.storages.journal._file.BaseJournalFileLock":
    """Return a lock that the system frees when its holder dies; Optuna's own keeps the others waiting for 30 s."""
    from filelock import FileLock
    from optuna.storages.journal._file import BaseJournalFileLock

    class Lock(BaseJournalFileLock):
        def __init__(self) -> None:
            self._lock = FileLock(f"{path}.lock")

        def acquire(self) -> bool:
            self._lock.acquire(poll_interval=0.002)
            cut_half_line(path)
            return True

        def release(self) -> None:
            self._lock.release()

    return Lock()


def cut_half_line(path: Path) -> None:
    """Cut off what a killed process has left of its last line; nobody else may be writing."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
