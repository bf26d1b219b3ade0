"""Where the stages' files stand, from the project's root; what each holds says its stage."""

from pathlib import Path

TRAIN_CSV = Path("data/raw/mnist_train.csv")
TEST_CSV = Path("data/raw/mnist_test.csv")
LOADED = Path("data/loaded")
PREPARED = Path("data/prepared")
RUNS = Path("data/runs")
REPORTS = Path("data/reports")


def loaded(dataset: str) -> Path:
    """Return the file of a loaded dataset."""
    return LOADED / f"{dataset}.npz"


def prepared(dataset: str) -> Path:
    """Return the file of a prepared dataset.

    >>> prepared("mnist").as_posix()
    'data/prepared/mnist.npz'
    """
    return PREPARED / f"{dataset}.npz"


def choice_file(net: str) -> Path:
    """Return the file that says which dataset a net trains on: what the stages of that net depend on."""
    return PREPARED / f"{net}.json"
