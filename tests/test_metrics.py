"""Figures of merit by hand on a few rows."""

import numpy as np
import pytest

from pipeline import metrics

LOGITS = np.log(np.array([[0.7, 0.2, 0.1, 0.5], [0.2, 0.5, 0.1, 0.3], [0.1, 0.3, 0.8, 0.2]]))  # (3, 4)
Y = np.eye(3)[[0, 1, 2, 1]]  # the last is labelled 0


def test_scores_of_several_classes():
    scores = metrics.score(LOGITS, Y)
    assert scores.predicted.tolist() == [0, 1, 2, 0]
    assert scores.accuracy == 0.75
    assert scores.loss == pytest.approx(-np.log([0.7, 0.5, 0.8, 0.3]).mean())
    np.testing.assert_allclose(scores.proba.sum(axis=1), 1)


def test_confusion_counts_rows_by_actual_and_predicted():
    assert metrics.confusion_matrix(metrics.score(LOGITS, Y)).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_per_class_by_hand():
    by_class = metrics.per_class(metrics.score(LOGITS, Y))
    assert by_class["0"] == pytest.approx({"test_precision": 0.5, "test_recall": 1.0, "test_f1": 2 / 3})
    assert by_class["1"] == pytest.approx({"test_precision": 1.0, "test_recall": 0.5, "test_f1": 2 / 3})


def test_a_class_never_predicted_has_precision_zero():
    scores = metrics.score(LOGITS[:, :1], np.eye(3)[[2]])
    assert metrics.per_class(scores)["2"] == {"test_precision": 0.0, "test_recall": 0.0, "test_f1": 0.0}


def test_binary_scores():
    scores = metrics.score(np.array([[-2.0, 3.0, -1.0, 0.0]]), np.array([[0.0], [1.0], [1.0], [0.0]]))
    assert scores.predicted.tolist() == [0, 1, 0, 0]
    assert scores.actual.tolist() == [0, 1, 1, 0]
    assert scores.accuracy == 0.75
    assert scores.n_classes == 2
    assert metrics.confusion_matrix(scores).tolist() == [[2, 0], [1, 1]]
    assert metrics.roc(scores)[2] == 0.75  # of the four pairs, (−1, 0) is in the wrong order


@pytest.mark.parametrize("k", [1, 4])
def test_the_figures_are_those_of_scikit_learn(k):
    from sklearn import metrics as sklearn

    rng = np.random.default_rng(k)
    logits = rng.normal(size=(k, 300)).round(1)  # rounded, so that rows share a threshold
    Y = rng.integers(0, 2, (300, 1)) if k == 1 else np.eye(k)[rng.integers(0, k, 300)]
    scores = metrics.score(logits, Y.astype(float))
    assert (metrics.confusion_matrix(scores) == sklearn.confusion_matrix(scores.actual, scores.predicted)).all()
    theirs = sklearn.precision_recall_fscore_support(scores.actual, scores.predicted)[:3]
    ours = np.array([list(figures.values()) for figures in metrics.per_class(scores).values()]).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-15)
    if k == 1:
        false_rate, true_rate, area = metrics.roc(scores)
        expected = sklearn.roc_curve(scores.actual, scores.proba[:, 0], drop_intermediate=False)
        np.testing.assert_allclose(false_rate, expected[0], rtol=1e-15)
        np.testing.assert_allclose(true_rate, expected[1], rtol=1e-15)
        assert area == pytest.approx(sklearn.roc_auc_score(scores.actual, scores.proba[:, 0]), rel=1e-12)
