"""Reading and writing of a stage's files: whole or not at all, without a time in them, without pickle."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import DataError

Arrays = dict[str, np.ndarray]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path beside `path` to write a file or a folder to; it takes `path`'s place at a clean end.

    If the block fails, or the process is killed in it, `path` stays as it was.

    Args:
        path: the file or folder to write; the folders above it are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        written = scratch / path.name
        yield written
        if path.is_dir():
            path.rename(scratch / "old")
        written.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


def file_md5(path: Path) -> str:
    """Return the MD5 of a file's bytes: what DVC names it by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
