"""Stage evaluate: both trained nets on the test rows: metrics, confusion matrices, pictures.

No training sees the test rows, unless `preprocess.pool_test` says so.
"""

import csv
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import cache, metrics, pictures, prepared, tracking, train_keras, train_scratch, trained
from pipeline.command import command
from pipeline.config import NETS, load_params
from pipeline.files import Arrays, arrays_sha256, replacing
from pipeline.metrics import Scores
from pipeline.paths import REPORTS, RUNS
from pipeline.trained import Trained

BLOCK = 4096  # rows scored at once: their floats stay in the cache, and the 170 MB of all of MNIST are never made
LOGITS = {"scratch": train_scratch.logits, "keras": train_keras.logits}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What evaluating one net gives.

    Attributes:
        test: the scores on the test rows.
        metrics: by name: test_loss, test_accuracy, train_accuracy, train_test_gap, macro averages; for a
            binary task whose test rows have both classes test_roc_auc.
        per_class: test_precision, test_recall and test_f1, by class.
        images: pictures as PNG, by name.
    """

    test: Scores
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: dict[str, bytes]


def run(result: Trained, data: Arrays, *, with_images: bool = True) -> Report:
    """Return the report of one trained net.

    Args:
        result: the trained net.
        data: the prepared dataset that it was trained on; X_train, Y_train, X_test and Y_test are read.
        with_images: whether pictures are drawn, which takes most of the time: 0.6 s.
    """
    test, train = score(result, data), score(result, data, "train")
    per_class = metrics.per_class(test)
    figures = {
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "train_accuracy": train.accuracy,
        "train_test_gap": train.accuracy - test.accuracy,
    }
    for name in ("test_precision", "test_recall", "test_f1"):
        figures[name] = float(np.mean([by_name[name] for by_name in per_class.values()]))
    images = _images(result, data["X_test"], test) if with_images else {}
    if test.proba.shape[1] == 1 and len(np.unique(test.actual)) == 2:
        false_rate, true_rate, figures["test_roc_auc"] = metrics.roc(test)
        if with_images:
            images["roc_curve"] = pictures.to_png(pictures.roc_curve(false_rate, true_rate, figures["test_roc_auc"]))
    return Report(test, figures, per_class, images)


def score(result: Trained, data: Arrays, part: str = "test") -> Scores:
    """Return the scores of a trained net on the test rows of a prepared dataset, or those of another part."""
    X = data[f"X_{part}"]
    blocks = [X[first : first + BLOCK] for first in range(0, len(X), BLOCK)]
    logits = np.concatenate([LOGITS[result.net](result, prepared.inputs(block)) for block in blocks], axis=1)
    return metrics.score(logits, prepared.targets(data[f"Y_{part}"]))


def _images(result: Trained, X: np.ndarray, test: Scores) -> dict[str, bytes]:
    """Return the pictures that every net has, and those of image data."""
    title = f"{result.net} on {result.dataset}"
    first = next(iter(result.weights.values()))
    figures = {
        "learning_curves": pictures.learning_curves(result.history, title),
        "confusion_matrix": pictures.confusion_matrix(
            metrics.confusion_matrix(test), [str(label) for label in range(test.n_classes)]
        ),
        "first_layer_weights": pictures.first_layer_weights(first if result.net == "scratch" else first.T),
    }
    if result.dataset == "mnist":
        figures["most_confident_errors"] = pictures.most_confident_errors(X, test.actual, test.proba)
    return {name: pictures.to_png(figure) for name, figure in figures.items()}


def write(reports: dict[str, Report], common: dict[str, bytes], folder: Path) -> None:
    """Write the reports: of each net its metrics, a file of them for each class, and its predictions; pictures/.

    A file a class, its figures named as those of all classes are: so `dvc metrics show` prints a row a class.
    """
    for net, report in reports.items():
        _write_json(report.metrics, folder / f"{net}_metrics.json")
        with replacing(folder / f"{net}_per_class") as new:
            new.mkdir()
            for label, figures in report.per_class.items():
                _write_json(figures, new / f"{label}.json")
        with replacing(folder / f"{net}_predictions.csv") as new, new.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["actual", "predicted"])
            writer.writerows(zip(report.test.actual.tolist(), report.test.predicted.tolist(), strict=True))
    with replacing(folder / "pictures") as new:
        new.mkdir()
        for name, png in common.items():
            (new / f"{name}.png").write_bytes(png)
        for net, report in reports.items():
            for name, png in report.images.items():
                (new / f"{net}_{name}.png").write_bytes(png)


def _write_json(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as new:
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@command
@cache.earlier_outputs()
def main() -> None:
    """Evaluate data/runs/ into data/reports/, and tell MLflow: the figures, and which net is now the best."""
    settings = load_params()
    tracking.sender(is_waited_for=True)  # starts now what takes seconds to start
    results = {net: trained.load(RUNS / net) for net in NETS}
    choices = {choice.dataset: choice for choice in map(prepared.chosen, NETS)}
    data = {dataset: prepared.read(choice) for dataset, choice in choices.items()}
    reports = {net: run(result, data[result.dataset]) for net, result in results.items()}
    common = {"activations": pictures.to_png(pictures.activations())}
    if "mnist" in data:
        X, Y = data["mnist"]["X_train"][:20], data["mnist"]["Y_train"][:20]
        common["sample_digits"] = pictures.to_png(pictures.sample_digits(X, Y.argmax(axis=1)))
    write(reports, common, REPORTS)
    run_ids = []
    for net, report in reports.items():
        log.info("%s on %s: test accuracy %.4f", net, results[net].dataset, report.test.accuracy)
        run_id = tracking.add_report(
            settings, results[net].weights_sha256, report.metrics, report.images, report.per_class
        )
        run_ids += [run_id] if run_id else []
    if run_ids:
        log.info("in MLflow: %s", tracking.call("shown_at", settings, run_ids))
    for dataset, choice in choices.items():
        test = {name: data[dataset][name] for name in ("X_test", "Y_test")}
        tracking.call("promote", settings, dataset, choice.md5, arrays_sha256(test))


if __name__ == "__main__":
    main()
