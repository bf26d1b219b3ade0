"""Locks on files, which the kernel frees when their holder dies, however it dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def hold(path: Path, *, shared: bool = False) -> BinaryIO:
    """Return the open file that holds the lock until it is closed; it waits for the lock.

    Args:
        path: the lock's file; it is made if need be, and stays.
        shared: others may hold it too, if they share it.
    """
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file alone."""
    with hold(path):
        yield


def is_held(path: Path) -> bool:
    """Return whether any process holds the lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
