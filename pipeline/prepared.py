"""The prepared dataset that a net trains on, as the stages read it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import cache, paths
from pipeline.config import DATASETS
from pipeline.errors import DataError
from pipeline.files import Arrays, file_md5, load_arrays, one_of


@dataclass(frozen=True)
class Choice:
    """Which dataset a net trains on.

    Attributes:
        dataset: one of config.DATASETS.
        md5: DVC's md5 of its prepared file.
    """

    dataset: str
    md5: str


def chosen(net: str) -> Choice:
    """Return which dataset a net trains on.

    Raises:
        FileNotFoundError: stage preprocess has not run.
        DataError: the file is not as that stage writes it.
    """
    path = paths.choice_file(net)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `dvc repro` makes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Choice(one_of(DATASETS, content["dataset"]), str(content["md5"]))
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path}: the choice of a dataset is needed, but {error!r}; `dvc checkout` mends it"
        ) from error


def read(choice: Choice) -> Arrays:
    """Return a prepared dataset as its file holds it; `scaled` makes of it what the nets take.

    Where data/ lacks it, as `dvc repro --allow-missing` lets be, or has another, it comes from DVC's cache.

    Raises:
        DataError: neither data/ nor the cache nor the remote has it.
    """
    path = paths.prepared(choice.dataset)
    is_there = path.is_file() and file_md5(path) == choice.md5
    found = path if is_there else cache.find(choice.md5, Path.cwd())
    if found is None:
        raise DataError(
            f"{path}: a file of md5 {choice.md5} is needed, but neither data/ nor DVC's cache has it; "
            "`dvc repro preprocess` makes it"
        )
    return load_arrays(found)


def scaled(arrays: Arrays) -> Arrays:
    """Return a prepared dataset as the nets take it: bytes as float32, those of pixels divided by 255; else as it is.

    >>> {name: array.tolist() for name, array in scaled({"X": np.uint8([[0, 255]]), "Y": np.uint8([[0, 1]])}).items()}
    {'X': [[0.0, 1.0]], 'Y': [[0.0, 1.0]]}
    """
    return {name: inputs(array) if name.startswith("X") else targets(array) for name, array in arrays.items()}


def inputs(X: np.ndarray) -> np.ndarray:
    """Return rows X (n, d) as the nets take them: bytes of pixels as float32 from 0 to 1, others as they are."""
    if X.dtype != np.uint8:
        return X
    quotient: np.ndarray = np.divide(X, np.float32(255), dtype=np.float32)
    return quotient


def targets(Y: np.ndarray) -> np.ndarray:
    """Return labels Y (n, k) as the nets take them: bytes as float32, others as they are."""
    return Y.astype(np.float32) if Y.dtype == np.uint8 else Y
