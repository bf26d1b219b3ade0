"""The lines of a text file that a user hands in, read within limits: nothing large is taken into memory."""

import contextlib
import gzip
import zlib
from collections.abc import Generator
from pathlib import Path

from pipeline.errors import DataError

MAX_LINE_BYTES = 2**20  # a row of 512 × 512 pixels fits; a file that is one endless line is refused early
_GZIP_MAGIC = b"\x1f\x8b"

Line = tuple[int, str]  # its number as an editor counts, from 1, and its text


def read(path: Path, max_bytes: int) -> Generator[Line]:
    """Yield the lines that are not blank, each with its number; a byte-order mark is passed over.

    Args:
        path: a UTF-8 text file, plain or gzipped (whatever its name).
        max_bytes: larger files are refused; of a gzipped one its text counts as well.

    Raises:
        FileNotFoundError: `path` is not there.
        DataError: it is no such file, is too large, or is cut off.
    """
    _refuse(path, max_bytes)
    n_bytes = number = 0
    try:
        with _open(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                n_bytes += len(raw)
                if n_bytes > max_bytes:
                    raise _too_large(path, max_bytes, f"more by line {number}")
                if not raw.isspace():
                    yield number, _text(path, number, raw)
    except EOFError as error:
        raise DataError(f"{path}: the gzip file is cut off after line {number}; fetch or export it again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: it cannot be read beyond line {number}: {error}") from error


def _refuse(path: Path, max_bytes: int) -> None:
    """Raise the error of a path that cannot be a text file of a permitted size."""
    if path.is_dir():
        raise DataError(f"{path}: a CSV file is needed, but this is a folder; name the file in it")
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; `dvc repro fetch` makes those of data/raw/, "
            "your own are named in mnist.train_csv and mnist.test_csv"
        )
    if not path.is_file():
        raise DataError(f"{path}: a CSV file is needed, but this is a device or a pipe")
    size = path.stat().st_size
    if size > max_bytes:
        raise _too_large(path, max_bytes, f"{size:,}")


def _too_large(path: Path, max_bytes: int, size: str) -> DataError:
    return DataError(
        f"{path}: at most {max_bytes:,} bytes are read, but it has {size}; raise mnist.max_csv_bytes if that is meant"
    )


def _open(path: Path) -> contextlib.AbstractContextManager[gzip.GzipFile]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if is_gzip else path.open("rb")  # type: ignore[return-value]  # readline is used


def _text(path: Path, number: int, raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise DataError(f"{path}, line {number}: at most {MAX_LINE_BYTES:,} bytes are needed, but it goes on")
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _no_text(path, number, f"the byte 0x{raw[error.start]:02x}") from error
    if "\0" in text:
        raise _no_text(path, number, "a NUL byte")
    return text


def _no_text(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number}: UTF-8 text is needed, but it holds {what}; is this a CSV file?")
