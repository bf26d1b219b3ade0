"""Stage synthesize: the lesson's binary task, drawn by scikit-learn."""

from pipeline import files
from pipeline.command import command
from pipeline.config import Synthetic, load_params
from pipeline.paths import loaded


def run(synthetic: Synthetic) -> files.Arrays:
    """Return X_train (n_train, n_features) float64, y_train (n_train,) of 0 and 1, X_test and y_test."""
    from sklearn.datasets import make_classification

    X, y = make_classification(
        n_samples=synthetic.n_samples,
        n_features=synthetic.n_features,
        n_informative=synthetic.n_informative,
        n_redundant=synthetic.n_redundant,
        random_state=synthetic.random_state,
    )
    n = synthetic.n_train
    return {"X_train": X[:n], "y_train": y[:n], "X_test": X[n:], "y_test": y[n:]}


@command
def main() -> None:
    """Write data/loaded/synthetic.npz."""
    files.save_arrays(loaded("synthetic"), run(load_params().synthetic))


if __name__ == "__main__":
    main()
