import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import mnist_csv
from pipeline.errors import DataError

HEADER = "label,1x1,1x2,2x1,2x2\n"
ROWS = "5,0,1,2,3\n0,10,20,30,255\n"


def read(path: Path, label_column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    return mnist_csv.read(path, max_bytes=10**7, label_column=label_column)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.csv"


def test_write_gives_the_lesson_s_format(file: Path) -> None:
    mnist_csv.write(file, np.array([[[0, 1], [2, 3]], [[10, 20], [30, 255]]], np.uint8), np.array([5, 0], np.uint8))
    assert file.read_text() == HEADER + ROWS


def test_the_header_of_28_by_28_pixels_counts_rows_then_columns(file: Path) -> None:
    mnist_csv.write(file, np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.uint8))
    names = file.read_text().splitlines()[0].split(",")
    assert (names[:3], names[28:30], names[-1], len(names)) == (
        ["label", "1x1", "1x2"],
        ["1x28", "2x1"],
        "28x28",
        785,
    )


@given(st.data(), st.integers(1, 5), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(data: st.DataObject, side: int, n: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    X, y = rng.integers(0, 256, (n, side, side), np.uint8), rng.integers(0, 10, n, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv")
        mnist_csv.write(path, X, y)
        X_read, y_read = read(path)
    assert X_read.dtype == y_read.dtype == np.uint8
    np.testing.assert_array_equal(X_read, X)
    np.testing.assert_array_equal(y_read, y)


def test_more_rows_than_are_written_at_once_are_read_back(file: Path) -> None:
    X = np.random.default_rng(0).integers(0, 256, (2500, 3, 3), np.uint8)
    mnist_csv.write(file, X, np.zeros(2500, np.uint8))
    np.testing.assert_array_equal(read(file)[0], X)


@pytest.mark.parametrize(
    "content",
    [
        (HEADER + ROWS).encode(),
        ROWS.encode(),
        (HEADER + ROWS).rstrip().encode(),
        (HEADER + ROWS).replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + (HEADER + ROWS).encode(),
        b"\xef\xbb\xbf" + ROWS.encode(),
        ("\n" + HEADER + "\n" + ROWS + "\n\n").encode(),
        (HEADER + ROWS).replace(",", " , ").encode(),
        ('"label","1x1","1x2","2x1","2x2"\n' + ROWS).encode(),
        ("label,0,1,2,3\n" + ROWS).encode(),
        ("digit,a,b,c,d\n" + ROWS).encode(),
        gzip.compress((HEADER + ROWS).encode()),
    ],
    ids=[
        "as written",
        "no header",
        "no newline at the end",
        "CRLF",
        "byte-order mark",
        "byte-order mark, no header",
        "blank lines",
        "spaces",
        "quoted names",
        "names that are numbers",
        "no column named label",
        "gzipped",
    ],
)
def test_the_forms_that_a_csv_comes_in_are_read_alike(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    X, y = read(file)
    assert X.tolist() == [[[0, 1], [2, 3]], [[10, 20], [30, 255]]]
    assert y.tolist() == [5, 0]


@pytest.mark.parametrize("label_column", [None, "label"])
def test_the_labels_are_found_by_name(file: Path, label_column: str | None) -> None:
    file.write_text("1x1,1x2,2x1,2x2,label\n0,1,2,3,5\n")
    X, y = read(file, label_column)
    assert (X.tolist(), y.tolist()) == ([[[0, 1], [2, 3]]], [5])


def test_the_labels_may_have_another_name(file: Path) -> None:
    file.write_text("1x1,1x2,digit,2x1,2x2\n0,1,5,2,3\n")
    X, y = read(file, "digit")
    assert (X.tolist(), y.tolist()) == ([[[0, 1], [2, 3]]], [5])


BAD = {
    "empty": ("", ": rows of a label and pixels are needed, but the file is empty"),
    "only blank lines": ("\n \n", ": rows of a label and pixels are needed, but the file is empty"),
    "header only": (HEADER, ": at least one row must stand below the header, but there is none"),
    "column too few": (
        HEADER + ROWS + "1,2,3,4\n" + ROWS,
        ", line 4: 5 columns are needed, as in line 1, but got 4",
    ),
    "column too many": (
        HEADER + ROWS + "1,2,3,4,5,6\n",
        ", line 4: 5 columns are needed, as in line 1, but got 6",
    ),
    "all rows narrower than the header": (
        "1x1,1x2,2x1,2x2,label\n0,1\n0,1\n",
        ", line 2: 5 columns are needed, as in line 1, but got 2",
    ),
    "cut off": (
        HEADER + ROWS + "5,0,2",
        ", line 4: 5 columns are needed, as in line 1, but got 3: the last line is cut off; "
        "fetch or export the file again",
    ),
    "pixel too large": (
        HEADER + ROWS + "5,0,256,0,0\n",
        ", line 4, column 3 (1x2): a pixel must be a whole number from 0 to 255, but got '256'; "
        "mend or delete this row",
    ),
    "pixel below zero": (
        ROWS + "5,0,0,0,-1\n",
        ", line 3, column 5: a pixel must be a whole number from 0 to 255, but got '-1'; mend or delete this row",
    ),
    "pixel with a point": (
        HEADER + "5,0,0,0.5,0\n",
        ", line 2, column 4 (2x1): a pixel must be a whole number from 0 to 255, but got '0.5'; "
        "mend or delete this row",
    ),
    "pixel missing": (
        HEADER + "5,0,,0,0\n",
        ", line 2, column 3 (1x2): a pixel must be a whole number from 0 to 255, but got nothing; "
        "mend or delete this row",
    ),
    "pixel not a number, after a blank line": (
        HEADER + "\n" + ROWS + "5,0,0,nan,0\n",
        ", line 5, column 4 (2x1): a pixel must be a whole number from 0 to 255, but got 'nan'; "
        "mend or delete this row",
    ),
    "long text in a cell": (
        HEADER + f"5,0,0,{'x' * 5000},0\n",
        ", line 2, column 4 (2x1): a pixel must be a whole number from 0 to 255, but got "
        "'xxxxxxxxxxxx...xxxxxxxxxxxxx'; mend or delete this row",
    ),
    "a carriage return in a row": (
        HEADER + "5,0,0,0,0\r7\n",
        ", line 2, column 5 (2x2): a pixel must be a whole number from 0 to 255, but got '0\\r7'; "
        "mend or delete this row",
    ),
    "a letter at which NumPy 2.4 ends the process": (
        "5,\U00085dfd,0,0,0\n",
        ", line 1, column 2: a pixel must be a whole number from 0 to 255, but got '\\U00085dfd'; "
        "mend or delete this row",
    ),
    "label too large": (
        HEADER + ROWS + "10,0,0,0,0\n",
        ", line 4, column 1 (label): a label must be a whole number from 0 to 9, but got '10'; "
        "mend or delete this row",
    ),
    "label not a number in a first line that is no header": (
        "five,0,0,0,0\n" + ROWS,
        ", line 1, column 1: a label must be a whole number from 0 to 9, but got 'five'; mend or delete this row",
    ),
    "label missing": (
        HEADER + ",0,0,0,0\n",
        ", line 2, column 1 (label): a label must be a whole number from 0 to 9, but got nothing; "
        "mend or delete this row",
    ),
    "header again": (
        HEADER + ROWS + HEADER + ROWS,
        ", line 4: a row is needed, but the header stands here again; were two files joined? Delete this line",
    ),
    "two columns of one name": (
        "label,1x1,1x2,1x1,2x2\n" + ROWS,
        ", line 1: each column needs its own name, but columns 2 and 4 are both named '1x1'",
    ),
    "no square": (
        "label,1,2,3\n5,0,0,0\n",
        ", line 1: a label and a square number of pixels are needed (785 columns for 28×28), "
        "but got 4 columns; "
        "are the labels missing?",
    ),
    "another separator": (
        HEADER.replace(",", ";") + ROWS.replace(",", ";"),
        ", line 1: a label and a square number of pixels are needed (785 columns for 28×28), but got 1 columns",
    ),
    "binary": (
        b"\x89PNG\r\n\x1a\n\0\0",
        ", line 1: UTF-8 text is needed, but it holds the byte 0x89; is this a CSV file?",
    ),
    "NULs": (b"\0" * 4000, ", line 1: UTF-8 text is needed, but it holds a NUL byte; is this a CSV file?"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_in_one_line_that_says_where(file: Path, content: str | bytes, complaint: str) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value) == f"{file}{complaint}"
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [HEADER + ROWS, ROWS])
def test_a_label_column_that_is_not_there_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(DataError, match=r"line 1: mnist.label_column is 'digit', but the columns are '.*', …; name"):
        read(file, "digit")


def test_a_row_that_ends_with_the_gzip_file_is_cut_off(file: Path) -> None:
    rows = "".join(f"{value % 10},{value},{value * 7 % 256},0,0\n" for value in range(256))
    file.write_bytes(gzip.compress((HEADER + rows).encode())[:-200])
    with pytest.raises(DataError, match=r"the gzip file is cut off after line 1?[0-9]+"):
        read(file)


CELLS = st.sampled_from(
    ["0", "7", "255", "256", "-1", "", " 3", "+4", "007", "1.5", "1e1", "nan", "٣", "x", '"1"', "\t"]
)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=6).map(",".join), max_size=5).map("\n".join).map(str.encode)


@given(st.one_of(st.binary(max_size=200), TABLES, TABLES.map(HEADER.encode().__add__), TABLES.map(gzip.compress)))
@example(b"1,\xef\xbb\xbf2\n")
@example(b"0,0\x1c\n")
@example(b"\x1f\x8b")
@example(b'"label",1\n"1",1\n')
@example(b"0,0\r")
@example(b"1,2\x0b3\n1,2")
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_are_read_whole_or_refused_with_a_data_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv")
        path.write_bytes(content)
        try:
            X, y = read(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert len(X) == len(y) > 0
            assert y.max() <= 9


def outcome(path: Path) -> object:
    try:
        X, y = read(path)
    except DataError as error:
        return str(error).replace(str(path), "FILE")
    return X.tolist(), y.tolist()


NEARLY_PLAIN = st.lists(
    st.sampled_from(["0,1\n", "5,255\n", "9,256\n", "07,003\n", "1,\n", "1,2,3\n", "\n", "3,4\r\n", " 1,2\n", "1,2"])
)


@given(NEARLY_PLAIN.map("".join))
@example("label,1x1\n5,1000\n")
@example("5,0\n1,2,3,4\n")
@example("5\n0,1\n")
@settings(max_examples=400, deadline=None)
def test_plain_digits_and_any_other_form_are_read_alike(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, zipped = Path(folder, "plain.csv"), Path(folder, "zipped.csv")
        plain.write_text(text, newline="")
        zipped.write_bytes(gzip.compress(text.encode()))  # which only the slower reader takes
        assert outcome(plain) == outcome(zipped)


def test_a_row_over_two_blocks_is_one_row(file: Path) -> None:
    X = np.random.default_rng(0).integers(0, 256, (300, 40, 40), np.uint8)  # 1.7 MB, in blocks of 256 kB
    mnist_csv.write(file, X, np.arange(300, dtype=np.uint8) % 10)
    np.testing.assert_array_equal(read(file)[0], X)
