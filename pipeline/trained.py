"""A trained net as a folder: what both training stages write, and evaluate reads."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DATASETS, NETS
from pipeline.errors import DataError
from pipeline.files import Arrays, arrays_sha256, load_arrays, one_of, replacing, save_arrays

History = dict[str, list[float]]
OnEpochEnd = Callable[[int, dict[str, float]], None]
HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        net: scratch or keras.
        dataset: mnist or synthetic.
        activations: of each layer, the hidden ones first; the last is sigmoid or softmax.
        weights: by name; W1, b1, W2, b2 from scratch, `<layer>/kernel` and `<layer>/bias` from Keras.
        history: Keras's keys, one number an epoch; without validation rows there are no val_ keys.
        summary: the layers and their parameter counts, as text.
    """

    net: str
    dataset: str
    activations: tuple[str, ...]
    weights: Arrays
    history: History
    summary: str

    @property
    def weights_sha256(self) -> str:
        """Return the digest that names the weights everywhere: in MLflow, in the reports."""
        return arrays_sha256(self.weights)

    @property
    def n_epochs(self) -> int:
        """Return the number of epochs trained, fewer than the settings' where it stopped early."""
        return len(self.history["loss"])


def save(trained: Trained, folder: Path) -> None:
    """Write a trained net to `folder`: net.json, weights.npz, history.csv, summary.txt; equal nets, equal bytes."""
    with replacing(folder) as new:
        new.mkdir()
        save_arrays(new / "weights.npz", trained.weights)
        write_history(trained.history, new / "history.csv")
        (new / "summary.txt").write_text(trained.summary, encoding="utf-8")
        described = {
            "net": trained.net,
            "dataset": trained.dataset,
            "activations": trained.activations,
            "weights_sha256": trained.weights_sha256,
        }
        (new / "net.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Trained:
    """Return the trained net that `save` wrote to `folder`.

    Raises:
        FileNotFoundError: a file of it is missing.
        DataError: the weights are not those that net.json names, or another file is not as `save` writes it.
    """
    if not (folder / "net.json").is_file():
        raise FileNotFoundError(f"{folder}: holds no trained net; `dvc repro` makes it")
    weights = load_arrays(folder / "weights.npz")
    try:
        described = json.loads((folder / "net.json").read_text(encoding="utf-8"))
        loaded = Trained(
            net=one_of(NETS, described["net"]),
            dataset=one_of(DATASETS, described["dataset"]),
            activations=tuple(described["activations"]),
            weights=weights,
            history=read_history(folder / "history.csv"),
            summary=(folder / "summary.txt").read_text(encoding="utf-8"),
        )
        named = described["weights_sha256"]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder}: a trained net as its stage writes it is needed, but {error!r}; `dvc checkout` mends it"
        ) from error
    if loaded.weights_sha256 != named:
        raise DataError(f"{folder}/weights.npz: not the weights that net.json names; `dvc checkout` mends it")
    return loaded


def write_history(history: Mapping[str, list[float]], path: Path) -> None:
    """Write a history as CSV, a row an epoch from 1; a key that the run has not got stays an empty column."""
    keys = [*HISTORY_KEYS, *(key for key in history if key not in HISTORY_KEYS)]
    n_epochs = len(history["loss"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *keys])
        for epoch in range(n_epochs):
            writer.writerow([epoch + 1, *(history[key][epoch] if key in history else "" for key in keys)])


def read_history(path: Path) -> History:
    """Return the history that `write_history` wrote; empty columns are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = [key for key in rows[0] if key != "epoch" and rows[0][key] != ""]
    return {key: [float(row[key]) for row in rows] for key in keys}
