import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import files, load, mnist_csv, paths
from pipeline.config import read_yaml
from pipeline.errors import DataError

LIMIT = 10**6


def write(path: Path, n: int, side: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mnist_csv.write(path, np.full((n, side, side), 7, np.uint8), np.arange(n, dtype=np.uint8) % 10)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, now the current one, with params.yaml, raw CSVs and what was loaded from them."""
    params = yaml.safe_dump(composed_params())
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(params)
    write(paths.TRAIN_CSV, 6)
    write(paths.TEST_CSV, 3)
    load.main()
    return tmp_path


def composed_params() -> dict[str, object]:
    from pipeline import compose

    params: dict[str, object] = yaml.safe_load(compose.run(Path(__file__).parents[1] / "conf"))
    return params


def test_both_files_become_uint8_images_and_labels(tmp_path: Path) -> None:
    arrays = load.run(write(tmp_path / "a.csv", 12), write(tmp_path / "b.csv", 3), max_bytes=LIMIT)
    assert {name: array.shape for name, array in arrays.items()} == {
        "X_train": (12, 2, 2),
        "y_train": (12,),
        "X_test": (3, 2, 2),
        "y_test": (3,),
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    assert arrays["y_train"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.csv", 3), write(tmp_path / "b.csv", 12)
    message = f"{test}: at most as many rows as in {train} (3) are needed, but got 12; are the two files swapped?"
    with pytest.raises(DataError, match=re.escape(message)):
        load.run(train, test, max_bytes=LIMIT)


def test_images_of_unequal_size_are_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.csv", 3), write(tmp_path / "b.csv", 3, side=4)
    message = f"{train} and {test}: images of one size are needed, but got 2×2 and 4×4 pixels"
    with pytest.raises(DataError, match=re.escape(message)):
        load.run(train, test, max_bytes=LIMIT)


def test_the_stage_writes_equal_bytes_each_time(project: Path) -> None:
    first = paths.loaded("mnist").read_bytes()
    load.main()
    assert paths.loaded("mnist").read_bytes() == first
    assert files.load_arrays(paths.loaded("mnist"))["y_train"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "error: data/raw/mnist_train.csv: no such file; `dvc repro fetch` makes those of data/raw/"),
        (
            b"",
            "error: data/raw/mnist_train.csv: rows of a label and pixels are needed, but the file is empty",
        ),
        (
            b"label,1x1\n5,0\n5,999\n",
            "error: data/raw/mnist_train.csv, line 3, column 2 (1x1): a pixel must be",
        ),
        (
            b"\xff\xfe",
            "error: data/raw/mnist_train.csv, line 1: UTF-8 text is needed, but it holds the byte 0xff",
        ),
        (
            b"label,1x1\n5,0\n",
            "error: data/raw/mnist_train.csv and data/raw/mnist_test.csv: images of one size",
        ),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_what_was_written(
    project: Path, content: bytes | None, complaint: str
) -> None:
    before = paths.loaded("mnist").read_bytes()
    paths.TRAIN_CSV.unlink()
    if content is not None:
        paths.TRAIN_CSV.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        load.main()
    assert str(ended.value).startswith(complaint)
    assert len(str(ended.value).splitlines()) == 1
    assert paths.loaded("mnist").read_bytes() == before
    assert [path.name for path in paths.loaded("mnist").parent.iterdir()] == ["mnist.npz"]


def test_the_stage_keeps_to_the_largest_size_of_the_settings(project: Path) -> None:
    params = read_yaml(Path("params.yaml"))
    params["mnist"]["max_csv_bytes"] = 20
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit, match=r"at most 20 bytes are read, but it has \d+; raise mnist.max_csv_bytes"):
        load.main()
