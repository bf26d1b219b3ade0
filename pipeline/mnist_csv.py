"""The lesson's CSV form of labelled square images: reading it, naming what is wrong with it, writing it.

One line an image: its label 0-9, then its pixels row by row, each 0-255; above them `label,1x1,1x2,…,28x28`.
Shapes: n images of s × s pixels, k = s² + 1 columns.
"""

import contextlib
import math
import re
import reprlib
import string
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline import lines
from pipeline.errors import DataError

_WHOLE = re.compile(r"\+?0*([0-9]{1,3})", re.ASCII)
_PIXELS = frozenset(str(value) for value in range(256))
_LABELS = frozenset("0123456789")
_ROWS_AT_ONCE = 1000  # 60,000 rows: 0.4 s, with 3 MB of text in memory
_THREADS = 2  # NumPy lets another one run: 0.25 s instead of 0.37
_BLOCKS_AT_ONCE = 16
_BYTES_AT_ONCE = 2**18  # so that all that is made of them stays in the processor's cache


@dataclass(frozen=True)
class _Layout:
    """What the first line says of the lines below it."""

    number: int
    text: str
    is_header: bool
    names: list[str]
    label: int

    @property
    def n_columns(self) -> int:
        return len(self.names)


def read(path: Path, *, max_bytes: int, label_column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (n, s, s) and labels (n,) of a CSV file, both uint8.

    The header may be absent, the file gzipped, lines may end in CRLF, and blank lines are passed over.
    60,000 rows of MNIST: 0.3 s, and less than 150 MB of memory, the 47 MB that come back among them.

    Args:
        path: the CSV file.
        max_bytes: larger files are refused; of a gzipped one the text counts.
        label_column: the header's name for the labels; None: `label`, or else the first column.

    Raises:
        FileNotFoundError: `path` is not there.
        DataError: anything else is wrong with it; names the line and the column, counted from 1.
    """
    with contextlib.closing(lines.read(path, max_bytes)) as numbered:
        first = next(numbered, None)
        if first is None:
            raise DataError(f"{path}: rows of a label and pixels are needed, but the file is empty")
        layout = _layout(path, first, label_column)
        rows = _parse_plain(path, layout)
        if rows is None:
            try:
                rows = _parse(text for _, text in (numbered if layout.is_header else chain([first], numbered)))
            except DataError:
                raise
            except (ValueError, Warning) as error:
                raise _diagnose(path, max_bytes, layout, str(error)) from error
    if rows.shape[1] != layout.n_columns or rows[:, layout.label].max() > 9:
        raise _diagnose(path, max_bytes, layout, "the rows do not fit the first line")
    y = rows[:, layout.label].copy()  # (n,)
    side = math.isqrt(layout.n_columns - 1)
    return np.delete(rows, layout.label, axis=1).reshape(len(rows), side, side), y


def write(path: Path, X: np.ndarray, y: np.ndarray) -> None:
    """Write images and labels to `path` in the lesson's format; equal arrays give equal bytes.

    Args:
        path: the file, overwritten in place (see `files.replacing`).
        X: (n, s, s) uint8.
        y: (n,) uint8.
    """
    side = X.shape[1]
    names = ["label", *(f"{row}x{column}" for row in range(1, side + 1) for column in range(1, side + 1))]
    words = _words()
    with path.open("wb") as file:
        file.write(f"{','.join(names)}\n".encode())
        for start in range(0, len(X), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = np.column_stack([y[part], X[part].reshape(-1, side * side)])  # (rows, k)
            text = words[rows].view(np.uint8)  # (rows, 4k)
            text[:, -1] = ord("\n")
            file.write(text.tobytes().translate(None, b"\0"))


def _words() -> np.ndarray:
    """Return (256,) uint32: the text of each pixel with a comma after it, NULs between the two."""
    letters = np.zeros((256, 4), dtype=np.uint8)
    for value in range(256):
        digits = str(value).encode()
        letters[value, : len(digits)] = list(digits)
    letters[:, 3] = ord(",")
    return letters.view(np.uint32)[:, 0]


def _layout(path: Path, first: lines.Line, label_column: str | None) -> _Layout:
    """Return what the first line says: are there names, and which column holds the labels."""
    number, text = first
    names = [cell.strip().strip('"') for cell in _cells(text)]
    label_name = label_column or "label"
    is_header = _is_header(names, label_name)
    complaint = _width_complaint(len(names)) or (_names_complaint(names) if is_header else None)
    if complaint is None and label_column not in (None, *names):
        complaint = (
            f"mnist.label_column is {label_column!r}, but the columns are "
            f"{', '.join(map(reprlib.repr, names[:3]))}, …; name one of them, or set it to null"
        )
    if complaint:
        raise DataError(f"{path}, line {number}: {complaint}")
    return _Layout(number, text, is_header, names, names.index(label_name) if label_name in names else 0)


def _is_header(names: list[str], label_name: str) -> bool:
    """Return whether these are names: one is the label's (`label,0,1,…`), or most are no numbers."""
    return label_name in names or 2 * sum(not _is_number(name) for name in names) > len(names)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _width_complaint(n_columns: int) -> str | None:
    if n_columns >= 2 and math.isqrt(n_columns - 1) ** 2 == n_columns - 1:
        return None
    unlabelled = "; are the labels missing?" if math.isqrt(n_columns) ** 2 == n_columns > 1 else ""
    return (
        "a label and a square number of pixels are needed (785 columns for 28×28), "
        f"but got {n_columns} columns{unlabelled}"
    )


def _names_complaint(names: list[str]) -> str | None:
    seen: dict[str, int] = {}
    for column, name in enumerate(names, start=1):
        if name in seen:
            return (
                f"each column needs its own name, but columns {seen[name]} and {column} "
                f"are both named {reprlib.repr(name)}"
            )
        seen[name] = column
    return None


def _parse_plain(path: Path, layout: _Layout) -> np.ndarray | None:
    """Return the rows, (n, k) uint8, of a file of nothing but digits, commas and line feeds; None: it is not so.

    A third of the time of `_parse`, which reads all that is legal.
    """
    parts: list[np.ndarray] = []
    with path.open("rb") as file, ThreadPoolExecutor(_THREADS) as pool:
        if layout.is_header:
            file.readline(lines.MAX_LINE_BYTES)
        blocks = _blocks(file)
        while some := list(islice(blocks, _BLOCKS_AT_ONCE)):
            for rows in pool.map(partial(_plain_rows, n_columns=layout.n_columns), some):
                if rows is None:
                    return None
                parts.append(rows)
    return np.concatenate(parts) if parts else None


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines, _BYTES_AT_ONCE or so at a time; a line that is too long as it is, without its end."""
    rest = b""
    while block := file.read(_BYTES_AT_ONCE):
        text = rest + block
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if end:
            yield text[:end]
        if len(rest) > lines.MAX_LINE_BYTES:
            yield rest
            return
    if rest:
        yield rest + b"\n"


def _plain_rows(text: bytes, n_columns: int) -> np.ndarray | None:
    """Return the rows of whole plain lines, (m, k) uint8, or None if any is not plain."""
    letters = np.frombuffer(text, np.uint8)
    edges = np.append(np.int32(-1), np.flatnonzero(letters < ord("0")).astype(np.int32))  # ends of the cells
    starts, ends = edges[:-1] + 1, edges[1:]
    n_rows = np.count_nonzero(letters == ord("\n"))
    n_others = len(ends) - n_rows - np.count_nonzero(letters == ord(","))
    if letters.max() > ord("9") or n_others or not n_rows or len(ends) != n_rows * n_columns:
        return None
    n_digits = ends - starts
    is_one_row_a_line = (letters[ends[n_columns - 1 :: n_columns]] == ord("\n")).all()
    if not is_one_row_a_line or n_digits.min() < 1 or n_digits.max() > 3:
        return None
    digits = letters - np.uint8(ord("0"))
    values = digits[ends - 1].astype(np.uint16)
    longer = np.flatnonzero(n_digits > 1)
    values[longer] += np.uint16(10) * digits[ends[longer] - 2]
    longest = longer[n_digits[longer] > 2]
    values[longest] += np.uint16(100) * digits[ends[longest] - 3]
    return values.astype(np.uint8).reshape(-1, n_columns) if values.max() <= 255 else None


def _parse(texts: Iterable[str]) -> np.ndarray:
    """Return the rows, (n, k) uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "no data"; and numpy < 2.3 only warns that it rounds 1.5 to 1
        return np.loadtxt(map(_ascii, texts), dtype=np.uint8, delimiter=",", comments=None, ndmin=2)


def _ascii(text: str) -> str:
    """Return a line that is ASCII, as it is.

    Raises:
        ValueError: it is not; NumPy 2.4 ends the whole process with a segmentation fault at some of the letters.
    """
    if not text.isascii():
        raise ValueError("digits of ASCII are needed")
    return text


def _diagnose(path: Path, max_bytes: int, layout: _Layout, answer: str) -> DataError:
    """Return the error of the first line that is wrong, looking cell by cell."""
    numbered = lines.read(path, max_bytes)
    if layout.is_header:
        next(numbered)
    number = 0
    for number, text in numbered:
        cells = _cells(text)
        if len(cells) == layout.n_columns and _PIXELS.issuperset(cells) and cells[layout.label] in _LABELS:
            continue
        complaint = _complaint(text, cells, layout)
        if complaint:
            is_short_end = len(cells) < layout.n_columns and next(numbered, None) is None
            cut_off = ": the last line is cut off; fetch or export the file again" if is_short_end else ""
            return DataError(f"{path}, line {number}{complaint}{cut_off}")
    if number == 0:
        return DataError(f"{path}: at least one row must stand below the header, but there is none")
    return DataError(f"{path}: {answer}")


def _complaint(text: str, cells: list[str], layout: _Layout) -> str | None:
    """Return what is wrong with one line, or None: the text that follows `line 7`."""
    if layout.is_header and text.strip() == layout.text.strip():
        return ": a row is needed, but the header stands here again; were two files joined? Delete this line"
    if len(cells) != layout.n_columns:
        return f": {layout.n_columns} columns are needed, as in line {layout.number}, but got {len(cells)}"
    for column, cell in enumerate(cells):
        what, largest = ("label", 9) if column == layout.label else ("pixel", 255)
        if not _is_whole(cell, largest):
            name = f" ({_shown(layout.names[column])})" if layout.is_header else ""
            got = reprlib.repr(cell.strip()) if cell.strip() else "nothing"
            return (
                f", column {column + 1}{name}: a {what} must be a whole number from 0 to {largest}, "
                f"but got {got}; mend or delete this row"
            )
    return None


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= 30 else reprlib.repr(name)


def _cells(text: str) -> list[str]:
    return text.rstrip("\r\n").split(",")


def _is_whole(cell: str, largest: int) -> bool:
    match = _WHOLE.fullmatch(cell.strip(string.whitespace))
    return match is not None and int(match[1]) <= largest
