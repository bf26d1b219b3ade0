"""The prepared dataset that a net trains on, as the stages read it."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import cache, paths
from pipeline.errors import DataError
from pipeline.files import Arrays, load_arrays


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
    """
    path = paths.choice_file(net)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `dvc repro` makes it")
    return Choice(**json.loads(path.read_text(encoding="utf-8")))


def read(choice: Choice) -> Arrays:
    """Return a prepared dataset; from DVC's cache if data/ lacks it, as `dvc repro --allow-missing` lets it.

    Raises:
        DataError: neither data/ nor the cache nor the remote has it.
    """
    path = paths.prepared(choice.dataset)
    found = path if path.is_file() else cache.find(choice.md5, Path.cwd())
    if found is None:
        raise DataError(f"{path}: no such file, nor has DVC's cache {choice.md5}; `dvc repro preprocess` makes it")
    return load_arrays(found)
