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
    from sklearn.metrics import confusion_matrix as count

    return np.asarray(count(scores.actual, scores.predicted, labels=range(scores.n_classes)))


def per_class(scores: Scores) -> dict[str, dict[str, float]]:
    """Return test_precision, test_recall and test_f1 by class; a class that was never predicted has precision 0."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(
        scores.actual, scores.predicted, labels=range(scores.n_classes), zero_division=0
    )
    return {
        str(label): {"test_precision": float(p), "test_recall": float(r), "test_f1": float(f1)}
        for label, (p, r, f1) in enumerate(zip(*figures[:3], strict=True))
    }


def roc(scores: Scores) -> tuple[np.ndarray, np.ndarray, float]:
    """Return false and true positive rates, (t,) each by falling threshold, and the area under the curve.

    Args:
        scores: of a binary task that has rows of both classes.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    probability = scores.proba[:, 0]
    false_rate, true_rate, _ = roc_curve(scores.actual, probability)
    return false_rate, true_rate, float(roc_auc_score(scores.actual, probability))
