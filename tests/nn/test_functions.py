"""The functions against what is known of them: bounds, symmetries, numerical derivatives, exact cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.nn.functions import (
    ACTIVATIONS,
    binary_cross_entropy,
    categorical_cross_entropy,
    labels,
    sigmoid,
    softmax,
)

LOGIT = st.floats(-1e4, 1e4)
LOGITS = arrays(np.float64, (4, 3), elements=LOGIT)


@settings(deadline=None)
@given(LOGIT, LOGIT)
def test_sigmoid_is_bounded_and_monotone(a, b):
    low, high = sigmoid(np.sort([a, b]))
    assert 0 <= low <= high + 1e-15
    assert high <= 1


@settings(deadline=None)
@given(LOGIT)
def test_sigmoid_of_the_opposite_is_the_complement(z):
    assert sigmoid(np.array(-z)) == pytest.approx(1 - sigmoid(np.array(z)), abs=1e-15)


def test_sigmoid_keeps_its_digits_in_the_lower_tail():
    assert sigmoid(np.array(-40.0)) == pytest.approx(np.exp(-40.0), rel=1e-14, abs=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_neither_warns_nor_overflows_at_ten_thousand(dtype):
    with np.errstate(over="raise", invalid="raise"):
        A = sigmoid(np.array([-1e4, 1e4], dtype))
    assert A.tolist() == pytest.approx([0, 1], abs=1e-37)
    assert A.dtype == dtype


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_equals_the_central_difference(name):
    function, derivative = ACTIVATIONS[name]
    Z = np.array([[-3.0, -1.5, -0.2, 0.3, 0.9, 2.5]])
    h = 1e-6
    numerical = (function(Z + h) - function(Z - h)) / (2 * h)
    assert derivative(function(Z)) == pytest.approx(numerical, rel=1e-8)


def test_relu_derivative_at_the_kink_is_zero():
    relu, derivative = ACTIVATIONS["relu"]
    assert derivative(relu(np.zeros(1))) == 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_derivative_keep_float32_and_their_argument(name):
    function, derivative = ACTIVATIONS[name]
    Z = np.array([[-1.0, 2.0]], np.float32)
    A = function(Z)
    before = A.copy()
    assert A.dtype == derivative(A).dtype == np.float32
    assert Z.tolist() == [[-1.0, 2.0]]
    assert np.array_equal(A, before)


@settings(deadline=None)
@given(LOGITS)
def test_softmax_columns_sum_to_one(Z):
    A = softmax(Z)
    assert A.sum(axis=0) == pytest.approx(np.ones(3), rel=1e-14)
    assert (A >= 0).all()


@settings(deadline=None)
@given(arrays(np.float64, (4, 3), elements=st.floats(-20, 20)), LOGIT)
def test_softmax_does_not_change_with_a_shift(Z, shift):
    assert softmax(Z + shift) == pytest.approx(softmax(Z), rel=1e-10)


def test_softmax_of_two_is_the_sigmoid_of_their_difference():
    Z = np.array([[0.3, -2.0, 5.0], [1.0, -1.0, -5.0]])
    assert softmax(Z)[0] == pytest.approx(sigmoid(Z[0] - Z[1]), rel=1e-14)


def test_binary_cross_entropy_is_the_mean_of_minus_log_of_the_probability_of_the_label():
    Z, Y = np.array([[0.3, -2.0, 5.0]]), np.array([[1.0, 0.0, 0.0]])
    A = 1 / (1 + np.exp(-Z))
    assert binary_cross_entropy(Z, Y) == pytest.approx(-np.log([A[0, 0], 1 - A[0, 1], 1 - A[0, 2]]).mean(), rel=1e-12)


def test_categorical_cross_entropy_is_the_mean_of_minus_log_of_the_probability_of_the_label():
    Z = np.array([[0.3, -2.0], [1.0, 0.0], [-1.0, 4.0]])
    Y = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    A = np.exp(Z) / np.exp(Z).sum(axis=0)
    assert categorical_cross_entropy(Z, Y) == pytest.approx(-np.log([A[0, 0], A[2, 1]]).mean(), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("label", "loss"), [(1.0, 0.0), (0.0, 1e4)])
def test_loss_stays_finite_where_the_probability_is_exactly_one(label, loss, dtype):
    Z = np.array([[1e4]], dtype)
    two = np.array([[1e4], [0.0]], dtype)
    assert sigmoid(Z).item() == softmax(two)[0].item() == 1
    assert binary_cross_entropy(Z, np.array([[label]], dtype)) == loss
    assert categorical_cross_entropy(two, np.array([[label], [1 - label]], dtype)) == loss


@pytest.mark.parametrize(("label", "loss"), [(0.0, 0.0), (1.0, 1e4)])
def test_loss_stays_finite_where_the_probability_is_zero(label, loss):
    two = np.array([[-1e4], [0.0]])
    assert softmax(two)[0] == 0
    assert binary_cross_entropy(two[:1], np.array([[label]])) == loss
    assert categorical_cross_entropy(two, np.array([[label], [1 - label]])) == loss


def test_small_losses_of_sure_answers_are_not_rounded_to_zero():
    assert binary_cross_entropy(np.array([[-30.0]]), np.zeros((1, 1))) == pytest.approx(
        np.exp(-30.0), rel=1e-12, abs=0
    )


def test_one_unit_is_labelled_one_only_above_a_probability_of_a_half():
    assert labels(np.array([[-1e-9, 0.0, 1e-9]])).tolist() == [0, 0, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_labels_of_one_hot_labels_are_the_labels(chosen):
    assert labels(np.eye(5)[:, chosen]).tolist() == chosen
