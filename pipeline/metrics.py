"""The figures of merit of a trained net on one set of rows."""

from dataclasses import dataclass

import numpy as np

from pipeline.nn.functions import binary_cross_entropy, categorical_cross_entropy, labels, sigmoid, softmax


@dataclass(frozen=True)
class Scores:
    """What a net says of n rows, and how good that is; k is 1 for a binary task, else the number of classes.

    Attributes:
        proba: (n, k) probabilities.
        predicted: (n,) labels.
        actual: (n,) labels.
        loss: mean cross-entropy in nats, without any penalty on the weights.
        accuracy: fraction of rows labelled right.
    """

    proba: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray
    loss: float
    accuracy: float

    @property
    def n_classes(self) -> int:
        """Return the number of classes: 2 for a binary task."""
        return max(2, int(self.proba.shape[1]))


def score(logits: np.ndarray, Y: np.ndarray) -> Scores:
    """Return the scores of logits.

    Args:
        logits: (k, n) float, before sigmoid (k = 1) or softmax.
        Y: (n, k) one-hot, or (n, 1) of 0 and 1.
    """
    binary = len(logits) == 1
    loss = binary_cross_entropy if binary else categorical_cross_entropy
    predicted, actual = labels(logits), labels(Y.T)
    return Scores(
        proba=(sigmoid if binary else softmax)(logits).T,
        predicted=predicted,
        actual=actual,
        loss=loss(logits, Y.T),
        accuracy=float(np.mean(predicted == actual)),
    )


def confusion_matrix(scores: Scores) -> np.ndarray:
    """Return (k, k) counts: row i, column j counts the rows of class i that were labelled j."""
    k = scores.n_classes
    return np.bincount(scores.actual * k + scores.predicted, minlength=k * k).reshape(k, k)


def per_class(scores: Scores) -> dict[str, dict[str, float]]:
    """Return test_precision, test_recall and test_f1 by class; a class that was never predicted has precision 0.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7. scikit-learn's functions give the same, as a
    test shows, but take a second to import.
    """
    counts = confusion_matrix(scores)
    right, said, actual = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)  # (k,) each
    figures = {
        "test_precision": right / np.maximum(said, 1),
        "test_recall": right / np.maximum(actual, 1),
        "test_f1": 2 * right / np.maximum(said + actual, 1),
    }
    return {
        str(label): {name: float(by_class[label]) for name, by_class in figures.items()}
        for label in range(scores.n_classes)
    }


def roc(scores: Scores) -> tuple[np.ndarray, np.ndarray, float]:
    """Return false and true positive rates, (t,) each by falling threshold, and the area under the curve.

    Args:
        scores: of a binary task that has rows of both classes.

    Source: Fawcett, An introduction to ROC analysis (Pattern Recognition Letters 27, 2006), algorithms 1 and 2.
    """
    order = np.argsort(-scores.proba[:, 0], kind="stable")
    probability, positive = scores.proba[order, 0], scores.actual[order] == 1
    ends = np.append(np.flatnonzero(np.diff(probability)), len(order) - 1)  # of rows that one threshold takes in
    true_rate, false_rate = (np.append(0, np.cumsum(hits)[ends] / hits.sum()) for hits in (positive, ~positive))
    return false_rate, true_rate, float(np.trapezoid(true_rate, false_rate))
