"""Backpropagation against two that know nothing of it: the central difference, and TensorFlow's GradientTape."""

import warnings

import numpy as np
import pytest

from pipeline.nn import ShallowNN
from pipeline.nn.functions import ACTIVATIONS

D, N_HIDDEN, M = 4, 5, 7


def task(n_out):
    """Return weights, X and Y; the weights are not small, so that every activation is beyond its linear part."""
    rng = np.random.default_rng(n_out)
    shapes = {"W1": (N_HIDDEN, D), "b1": (N_HIDDEN, 1), "W2": (n_out, N_HIDDEN), "b2": (n_out, 1)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    Y = rng.integers(2, size=(1, M)).astype(float) if n_out == 1 else np.eye(n_out)[:, rng.integers(n_out, size=M)]
    return weights, rng.normal(size=(D, M)), Y


def numerical_gradient(weights, name, activation, X, Y):
    h = 1e-5
    gradient = np.empty_like(weights[name])
    for index in np.ndindex(gradient.shape):
        losses = []
        for step in (h, -h):
            moved = weights[name].copy()
            moved[index] += step
            losses.append(ShallowNN(weights | {name: moved}, activation).evaluate(X, Y)["loss"])
        gradient[index] = (losses[0] - losses[1]) / (2 * h)
    return gradient


@pytest.mark.parametrize("n_out", [1, 3, 10])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_equals_the_central_difference(activation, n_out):
    weights, X, Y = task(n_out)
    gradients = ShallowNN(weights, activation).gradients(X, Y)
    for name in weights:
        numerical = numerical_gradient(weights, name, activation, X, Y)
        error = np.linalg.norm(gradients[name] - numerical) / np.linalg.norm(numerical)
        assert error <= 1e-6, name


@pytest.mark.parametrize("n_out", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_equals_tensorflows(activation, n_out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    weights, X, Y = task(n_out)
    v = {name: tf.Variable(array) for name, array in weights.items()}
    activate = {"tanh": tf.tanh, "sigmoid": tf.sigmoid, "relu": tf.nn.relu}[activation]
    with tf.GradientTape() as tape:
        logits = v["W2"] @ activate(v["W1"] @ X + v["b1"]) + v["b2"]
        if n_out == 1:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=Y, logits=logits)
        else:
            losses = tf.nn.softmax_cross_entropy_with_logits(labels=Y.T, logits=tf.transpose(logits))
        loss = tf.reduce_mean(losses)
    net = ShallowNN(weights, activation)
    assert net.evaluate(X, Y)["loss"] == pytest.approx(float(loss), rel=1e-12)
    gradients = net.gradients(X, Y)
    for name, expected in tape.gradient(loss, v).items():
        assert np.abs(gradients[name] - expected.numpy()).max() <= 1e-10, name
