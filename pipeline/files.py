"""Reading and writing of a stage's files: whole or not at all, without a time in them, without pickle."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.errors import DataError

Arrays = dict[str, np.ndarray]
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # as a write to an open file has them: nameless


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path beside `path` to write a file or a folder to; it takes `path`'s place at a clean end.

    If the block fails, or the process is killed in it, `path` stays as it was. What a killed one has left beside
    `path`, a folder `.<name>.<8 letters>`, the next call removes.

    Args:
        path: the file or folder to write; the folders above it are made.

    Raises:
        OSError: it cannot be written; names `path`, not the new path.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_beside(path) as scratch:
            written = scratch / path.name
            yield written
            if path.is_dir():
                path.rename(scratch / "old")
            written.replace(path)
    except OSError as error:
        if not _is_of(error, path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; those of dead processes, which hold no lock any more, are removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):
        if not left.is_symlink():
            with contextlib.suppress(OSError), _lock(left):
                shutil.rmtree(left, ignore_errors=True)
    scratch, lock = _new_scratch(path)
    with lock:
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _new_scratch(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another process took it for a dead one's
            return scratch, _lock(scratch)


def _lock(scratch: Path) -> BinaryIO:
    """Return the open file that holds the lock of a scratch folder until it is closed, or its process dies."""
    file = (scratch / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if scratch.exists():
            return file
        raise FileNotFoundError(scratch)
    except OSError:
        file.close()
        raise


def _is_of(error: OSError, path: Path) -> bool:
    """Return whether an error is of writing to `path`: it names what stands beside it, or the disk alone."""
    if error.filename is None:
        return error.errno in DISK_ERRORS
    beside = f"{path.parent.absolute()}/.{path.name}."
    return str(Path(os.fsdecode(error.filename)).absolute()).startswith(beside)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to `path` (.npz, uncompressed); equal arrays give equal bytes."""
    with replacing(path) as new, new.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes **kwds for its flag


def load_arrays(path: Path) -> Arrays:
    """Return the named arrays of an .npz file, read without pickle.

    Raises:
        FileNotFoundError: `path` is not there.
        DataError: `path` is no .npz archive of plain arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `dvc repro` makes it")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise DataError(f"{path}: an .npz archive of plain arrays is needed, but {error}") from error


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of named arrays: over each name, dtype, shape and bytes, in the order of the names.

    >>> arrays_sha256({"b": np.zeros(2)}) == arrays_sha256({"b": np.zeros((1, 2))})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def one_of(names: Sequence[str], value: object) -> str:
    """Return a value read from a file, if it is one of some names.

    Raises:
        DataError: it is not.
    """
    if value not in names:
        raise DataError(f"one of {', '.join(names)} is needed, but got {value!r}")
    return str(value)


def file_md5(path: Path) -> str:
    """Return the MD5 of a file's bytes: what DVC names it by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
