"""Stage preprocess: loaded arrays flattened, one-hot, split in train, val and test.

Pixels and one-hot labels stay bytes, a quarter of the size of what the nets take: `prepared.scaled` makes that.

Shapes: n rows, d features, k outputs (10 for digits, 1 for the binary task).
"""

import json

import numpy as np

from pipeline import files, paths, seeds
from pipeline.command import command
from pipeline.config import DATASETS, NETS, Preprocess, load_params
from pipeline.errors import SettingsError

N_DIGITS = 10


def run(preprocess: Preprocess, seed: int, loaded: files.Arrays) -> files.Arrays:
    """Return X_train (n, d), Y_train (n, k), X_val, Y_val, X_test and Y_test; rows keep their order.

    Of images X (n, s²) and Y (n, 10) are uint8, of features X (n, d) and Y (n, 1) are as they come.

    Args:
        preprocess: how many rows validate, which, and whether the test rows join the others first.
        seed: ≥ 0; draws the validation rows.
        loaded: X_train, y_train, X_test, y_test; images (n, s, s) uint8, or features (n, d) of a float type.

    Raises:
        SettingsError: no row would be left to train on.
    """
    X, y, X_test, y_test = (loaded[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    if preprocess.pool_test:
        X, y = np.concatenate([X, X_test]), np.concatenate([y, y_test])
    validates = _validation_rows(preprocess, seed, len(y))  # (n,)
    parts = {
        "train": (X[~validates], y[~validates]),
        "val": (X[validates], y[validates]),
        "test": (X_test, y_test),
    }
    prepared: files.Arrays = {}
    for part, (X_part, y_part) in parts.items():
        prepared[f"X_{part}"], prepared[f"Y_{part}"] = _inputs(X_part), _targets(X_part, y_part)
    return prepared


def _validation_rows(preprocess: Preprocess, seed: int, n: int) -> np.ndarray:
    """Return (n,) bool: true where a row validates."""
    n_train = int(n * (1 - preprocess.validation_fraction))  # as Keras rounds its validation_split
    if n_train == 0:
        raise SettingsError(
            f"preprocess.validation_fraction: a fraction that leaves a row to train on is needed, "
            f"but got {preprocess.validation_fraction} of {n} rows; see conf/preprocess/"
        )
    rows = np.arange(n)
    if preprocess.shuffle:
        rows = seeds.generator(seed, "split").permutation(n)
    validates = np.zeros(n, dtype=bool)
    validates[rows[n_train:]] = True
    return validates


def _inputs(X: np.ndarray) -> np.ndarray:
    """Return images (n, s, s) as rows (n, s²), features as they are."""
    return X if X.ndim == 2 else X.reshape(len(X), X.shape[1] * X.shape[2])


def _targets(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return digits as one-hot rows (n, 10) uint8; binary labels as (n, 1) of the features' type.

    >>> _targets(np.zeros((1, 2, 2)), np.array([4])).tolist()
    [[0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]
    """
    if X.ndim == 2:
        return y.reshape(-1, 1).astype(X.dtype)
    one_hot: np.ndarray = np.eye(N_DIGITS, dtype=np.uint8)[y]
    return one_hot


@command
def main() -> None:
    """Write data/prepared/ from data/loaded/: each dataset, and for each net which of them it trains on."""
    settings = load_params()
    for name in DATASETS:
        prepared = run(settings.preprocess, settings.seed, files.load_arrays(paths.loaded(name)))
        files.save_arrays(paths.prepared(name), prepared)
    for net in NETS:
        dataset = settings.section(net).dataset
        choice = {"dataset": dataset, "md5": files.file_md5(paths.prepared(dataset))}
        with files.replacing(paths.choice_file(net)) as new:
            new.write_text(json.dumps(choice, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
