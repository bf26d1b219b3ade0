import gzip
import os
from pathlib import Path

import pytest

from pipeline import lines
from pipeline.errors import DataError


def read(path: Path, max_bytes: int = 10**6) -> list[lines.Line]:
    return list(lines.read(path, max_bytes))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.csv"


def test_lines_are_numbered_as_an_editor_counts_and_blank_ones_passed_over(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa\r\n\r\n  \nb")
    assert read(file) == [(1, "a\r\n"), (4, "b")]


@pytest.mark.parametrize("name", ["file.csv.gz", "file.csv"])
def test_a_gzipped_file_is_unpacked_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"a\nb\n"))
    assert read(tmp_path / name) == [(1, "a\n"), (2, "b\n")]


def test_a_missing_file_is_named_with_what_makes_it(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"file.csv: no such file; `dvc repro fetch` makes"):
        read(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a CSV file is needed, but this is a folder"):
        read(tmp_path)


def test_a_pipe_is_refused_rather_than_waited_for(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(DataError, match="a CSV file is needed, but this is a device or a pipe"):
        read(file)


def test_a_file_larger_than_the_limit_is_refused_by_its_size(file: Path) -> None:
    file.write_bytes(b"1,2\n" * 300)
    with pytest.raises(DataError, match=r"at most 1,199 bytes are read, but it has 1,200; raise mnist.max"):
        read(file, max_bytes=1199)
    assert len(read(file, max_bytes=1200)) == 300


def test_a_gzip_bomb_is_refused_by_the_size_of_its_text(file: Path) -> None:
    file.write_bytes(gzip.compress(b"0,0\n" * 10**6))
    with pytest.raises(DataError, match="at most 40,000 bytes are read, but it has more by line 10001"):
        read(file, max_bytes=40_000)


def test_an_endless_line_is_refused_before_it_takes_the_memory(file: Path) -> None:
    file.write_bytes(b"a\n" + b"0," * lines.MAX_LINE_BYTES)
    with pytest.raises(DataError, match=r"file.csv, line 2: at most 1,048,576 bytes are needed, but it goes on"):
        read(file, max_bytes=10**7)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a\nb\xff\n", "line 2: UTF-8 text is needed, but it holds the byte 0xff; is this a CSV"),
        (b"a\nb\n\0\n", "line 3: UTF-8 text is needed, but it holds a NUL byte"),
        ("label,1x1\n".encode("utf-16"), "line 1: UTF-8 text is needed, but it holds the byte 0xff"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_line(file: Path, content: bytes, what: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=what):
        read(file)


def test_a_gzip_file_that_is_cut_off_is_told_from_a_whole_one(file: Path) -> None:
    file.write_bytes(gzip.compress(b"0,0\n" * 5)[:-9])
    with pytest.raises(DataError, match="the gzip file is cut off after line"):
        read(file)


def test_a_gzip_file_with_damaged_bytes_is_refused(file: Path) -> None:
    content = bytearray(gzip.compress(os.urandom(3000).hex().encode()))
    content[1000] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"file.csv: it cannot be read beyond line 0: "):
        read(file)
