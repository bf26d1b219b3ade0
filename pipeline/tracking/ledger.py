"""Which records a store has whole, at a glance: `.whole/<store>` among the records, a line for each that was brought.

A look at ten thousand records then opens one file instead of thirty thousand. A line holds a record's id and a stamp
of its files; where the stamp no longer fits, or there is no line, the record itself is asked. So it may be removed.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.tracking.records import Record
from pipeline.tracking.store import records_folder

FOLDER = ".whole"
STATE_TIME = 5  # where in a stamp the time of state.json stands
DIGITS = 16  # of the digest of a store's address


def lacking(store: str, folder: Path | None = None) -> list[Record]:
    """Return the records of which a store lacks something, whichever one they were meant for, in no order.

    Args:
        store: its address without secrets.
        folder: of the records; None: this project's.
    """
    folder = folder or records_folder()
    if not folder.is_dir():
        return []
    known = _read(_file(folder, store))
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            now = stamp(entry.path)
            if now and known.get(entry.name) != now:
                record = Record(Path(entry.path))
                if record.waits_for(store):
                    found.append(record)
                else:
                    note(record, store, now)
    return found


def stamp(folder: str) -> str:
    """Return what changes with anything that is written to a record; nothing if the folder is no record.

    Args:
        folder: of the record.
    """
    parts = []
    for name in ("run.json", "state.json", "metrics.jsonl", "artifacts"):
        try:
            found = os.stat(f"{folder}/{name}")  # noqa: PTH116 – a Path costs more than the look
            parts += [found.st_ino, found.st_size, found.st_mtime_ns]
        except (FileNotFoundError, NotADirectoryError):
            if name == "run.json":
                return ""
    return "-".join(map(str, parts))


def note(record: Record, store: str, seen: str) -> None:
    """Keep that a store has all of a record.

    Args:
        record: that has ended.
        store: its address without secrets.
        seen: the record's stamp from before it was found whole.
    """
    file = _file(record.folder.parent, store)
    with contextlib.suppress(OSError):  # a full disk: the record itself knows
        file.parent.mkdir(exist_ok=True)
        with file.open("ab", buffering=0) as lines:  # one write, so that those of several processes do not mix
            lines.write(f"{record.id} {seen}\n".encode())


def newest(store: str, folder: Path) -> Record | None:
    """Return of the records that a store has whole the one that ended last; None: it has none.

    Args:
        store: its address without secrets.
        folder: of the records.
    """
    known = _read(_file(folder, store))
    there = ((seen.split("-"), record) for record, seen in known.items() if (folder / record).is_dir())
    ended = [
        (int(parts[STATE_TIME]), record)
        for parts, record in there
        if len(parts) > STATE_TIME and parts[STATE_TIME].isdigit()  # else the line was cut
    ]
    return Record(folder / max(ended)[1]) if ended else None


@contextlib.contextmanager
def dropped(store: str, folder: Path) -> Iterator[None]:
    """Forget which records a store has whole; `is_dropping` until the block is done, by this process or a later one.

    Args:
        store: its address without secrets.
        folder: of the records.
    """
    mark = _mark(folder, store)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    yield
    _file(folder, store).unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def is_dropping(store: str, folder: Path) -> bool:
    """Return whether `dropped` was begun and not ended."""
    return _mark(folder, store).exists()


def _mark(folder: Path, store: str) -> Path:
    return _file(folder, store).with_suffix(".dropping")


def _file(folder: Path, store: str) -> Path:
    return folder / FOLDER / hashlib.sha256(store.encode()).hexdigest()[:DIGITS]


def _read(file: Path) -> dict[str, str]:
    """Return the stamps by record; of several of one record the last."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {record: seen for record, _, seen in (line.partition(" ") for line in lines)}
