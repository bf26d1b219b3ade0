"""The net: its weights, one step by hand, its predictions and its refusals."""

import numpy as np
import pytest

from pipeline.nn import ShallowNN, initial_weights


def weights_of(seed, **kwargs):
    return initial_weights(20, 10, 1, rng=np.random.default_rng(seed), **kwargs)


def packed(weights):
    return b"".join(weights[name].tobytes() for name in ("W1", "b1", "W2", "b2"))


HAND = {
    "W1": np.array([[1.0, -1.0], [2.0, 0.0]]),
    "b1": np.array([[0.0], [-1.0]]),
    "W2": np.array([[2.0, -1.0]]),
    "b2": np.array([[1.0]]),
}


def test_one_update_worked_by_hand():
    X = np.array([[1.0, 2.0], [2.0, 1.0]])  # samples (1, 2) and (2, 1)
    Y = np.array([[1.0, 1.0]])
    net = ShallowNN(HAND, "relu")
    # Z1 = W1 X + b1: unit 1: 1-2, 2-1; unit 2: 2-1, 4-1          = [[-1, 1], [1, 3]]
    # A1 = relu(Z1)                                               = [[0, 1], [1, 3]]
    # Z2 = 2 A1[0] - A1[1] + 1: 0-1+1, 2-3+1                      = [[0, 0]], so A2 = [[1/2, 1/2]]
    A1, Z2 = net.forward(X)
    assert A1.tolist() == [[0, 1], [1, 3]]
    assert Z2.tolist() == [[0, 0]]
    # dZ2 = (A2 - Y) / 2                                          = [[-1/4, -1/4]]
    # dW2 = dZ2 A1ᵀ: -(0+1)/4, -(1+3)/4; db2: -1/4 - 1/4
    # W2ᵀ dZ2 = [[-1/2, -1/2], [1/4, 1/4]]; relu' = [[0, 1], [1, 1]]; dZ1 = [[0, -1/2], [1/4, 1/4]]
    # dW1 = dZ1 Xᵀ: unit 1: -2/2, -1/2; unit 2: (1+2)/4, (2+1)/4; db1: -1/2, 1/4 + 1/4
    gradients = net.gradients(X, Y)
    assert gradients["W2"].tolist() == [[-0.25, -1]]
    assert gradients["b2"].tolist() == [[-0.5]]
    assert gradients["W1"].tolist() == [[-1, -0.5], [0.75, 0.75]]
    assert gradients["b1"].tolist() == [[-0.5], [0.5]]
    # learning rate 2: each weight minus twice its gradient
    assert net.step(X, Y, 2.0).tolist() == [[0, 0]]
    assert net.weights["W1"].tolist() == [[3, 0], [0.5, -1.5]]
    assert net.weights["b1"].tolist() == [[1], [-2]]
    assert net.weights["W2"].tolist() == [[2.5, 1]]
    assert net.weights["b2"].tolist() == [[2]]


def test_shapes_on_twenty_features_are_the_lessons():
    shapes = {name: array.shape for name, array in ShallowNN(weights_of(0)).weights.items()}
    assert shapes == {"W1": (10, 20), "b1": (10, 1), "W2": (1, 10), "b2": (1, 1)}


def test_same_seed_gives_the_same_bytes_and_zero_is_a_seed():
    assert packed(weights_of(0)) == packed(weights_of(0))
    assert packed(weights_of(0)) != packed(weights_of(1))


def test_initial_weights_are_normal_of_deviation_a_hundredth_and_biases_zero():
    weights = initial_weights(400, 300, 50, rng=np.random.default_rng(0))
    for name in ("W1", "W2"):
        assert weights[name].std() == pytest.approx(0.01, rel=0.02)
        assert weights[name].mean() == pytest.approx(0, abs=3e-4)
    assert not weights["b1"].any()
    assert not weights["b2"].any()


def test_float32_weights_are_the_float64_ones_rounded():
    single, double = weights_of(0, dtype=np.float32), weights_of(0)
    for name, array in single.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, double[name].astype(np.float32))


def test_weights_go_in_and_come_out_as_copies():
    given = weights_of(0)
    kept = packed(given)
    net = ShallowNN(given)
    net.weights["W1"][:] = 7
    X = np.ones((20, 3))
    net.step(X, np.ones((1, 3)), 1.0)
    assert packed(given) == kept
    assert packed(net.weights) != kept
    assert packed(ShallowNN(given).weights) == kept


@pytest.mark.parametrize("n_out", [1, 3])
def test_step_keeps_float32_whatever_the_labels_dtype(n_out):
    net = ShallowNN(initial_weights(2, 4, n_out, rng=np.random.default_rng(0), dtype=np.float32))
    X, Y = np.ones((2, 5), np.float32), np.ones((n_out, 5), np.int64)
    assert {array.dtype for array in net.gradients(X, Y).values()} == {np.dtype(np.float32)}
    assert net.predict_proba(X).dtype == np.float32


def test_one_unit_predicts_one_where_its_probability_is_above_a_half():
    net = ShallowNN({"W1": np.eye(1), "b1": np.zeros((1, 1)), "W2": np.eye(1), "b2": np.zeros((1, 1))})
    X = np.array([[-2.0, 0.0, 0.5]])
    assert net.predict_proba(X) == pytest.approx(1 / (1 + np.exp(-np.tanh(X))))
    assert net.predict(X).tolist() == [0, 0, 1]
    assert net.accuracy(X, np.array([[1.0, 0.0, 1.0]])) == pytest.approx(2 / 3)


def test_several_units_predict_the_most_probable_class():
    net = ShallowNN({"W1": np.eye(3), "b1": np.zeros((3, 1)), "W2": np.eye(3), "b2": np.zeros((3, 1))}, "relu")
    X = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    assert net.predict_proba(X).sum(axis=0) == pytest.approx([1, 1])
    assert net.predict(X).tolist() == [0, 2]
    assert net.accuracy(X, np.eye(3)[:, [0, 1]]) == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b1": np.zeros((2, 2))}, r"\(h, d\), \(h, 1\)"),
        ({"W2": np.zeros((1, 3))}, r"\(h, d\), \(h, 1\)"),
        ({"b2": np.zeros(1)}, "must be the matrices"),
        ({"W1": np.zeros((2, 2), np.float32)}, "all float32 or all float64. Received: float32, float64"),
        ({"W3": np.zeros((2, 2))}, "must be the matrices"),
    ],
)
def test_weights_that_do_not_go_together_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ShallowNN(HAND | changed)


def test_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"tanh, sigmoid, relu\. Received: 'selu'"):
        ShallowNN(HAND, "selu")


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((1, 5)), r"X must be \(2, m\).*Received: \(5, 2\) and \(1, 5\)"),
        (np.zeros((2, 5)), np.zeros((5,)), r"Y \(1, m\)"),
        (np.zeros((2, 0)), np.zeros((1, 0)), "m > 0"),
        (np.zeros((2, 5), np.float32), np.zeros((1, 5)), "must be float64.*Received: float32"),
    ],
)
def test_data_that_do_not_fit_are_refused(X, Y, message):
    with pytest.raises(ValueError, match=message):
        ShallowNN(HAND).evaluate(X, Y)
