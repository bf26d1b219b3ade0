"""Stage load: the raw CSVs as arrays, once they are found to be what they must be."""

import logging
from pathlib import Path

from pipeline import files, mnist_csv
from pipeline.command import command
from pipeline.config import load_params
from pipeline.errors import DataError
from pipeline.paths import TEST_CSV, TRAIN_CSV, loaded

log = logging.getLogger(__name__)


def run(train_csv: Path, test_csv: Path, *, max_bytes: int, label_column: str | None = None) -> files.Arrays:
    """Return X_train (n, s, s), y_train (n,), X_test and y_test, all uint8.

    Args:
        train_csv: the training images, see `mnist_csv`.
        test_csv: the test images, as large as the training images; not more of them.
        max_bytes: larger files are refused.
        label_column: the header's name for the labels; None: `label`, or else the first column.

    Raises:
        FileNotFoundError: a file is not there.
        DataError: a file is not as it must be, or the two do not fit together.
    """
    X_train, y_train = mnist_csv.read(train_csv, max_bytes=max_bytes, label_column=label_column)
    X_test, y_test = mnist_csv.read(test_csv, max_bytes=max_bytes, label_column=label_column)
    if X_train.shape[1:] != X_test.shape[1:]:
        raise DataError(
            f"{train_csv} and {test_csv}: images of one size are needed, "
            f"but got {_size(X_train.shape)} and {_size(X_test.shape)} pixels"
        )
    if len(X_test) > len(X_train):
        raise DataError(
            f"{test_csv}: at most as many rows as in {train_csv} ({len(X_train):,}) are needed, "
            f"but got {len(X_test):,}; are the two files swapped?"
        )
    return {"X_train": X_train, "y_train": y_train, "X_test": X_test, "y_test": y_test}


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[2]}"


@command
def main() -> None:
    """Write data/loaded/mnist.npz from data/raw/."""
    arrays = run(TRAIN_CSV, TEST_CSV, max_bytes=load_params().mnist.max_csv_bytes)
    files.save_arrays(loaded("mnist"), arrays)
    log.info(
        "%d training and %d test images of %s pixels",
        len(arrays["X_train"]),
        len(arrays["X_test"]),
        _size(arrays["X_train"].shape),
    )


if __name__ == "__main__":
    main()
