"""Activations with their derivatives, and the outputs with their losses.

A derivative takes A, what its function returned, as the backward pass has A at hand and no longer needs Z.
A loss takes the logits Z, what the output function would turn into probabilities: so a probability that rounds to
0 or 1 costs what it should, rather than infinity.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def sigmoid(Z: Array) -> Array:
    """Return 1 / (1 + e^-Z), each element in (0, 1] up to rounding.

    Z below −87 counts as −87, where σ is 1e-38: e^87 is still within float32, so no Z overflows.

    Args:
        Z: float array of any shape.

    Source: Bishop, Pattern Recognition and Machine Learning (2006), eq. 4.59.

    >>> sigmoid(np.array([-1e4, -1.0, 0.0, 1.0, 1e4])).round(4).tolist()
    [0.0, 0.2689, 0.5, 0.7311, 1.0]
    """
    A: Array = np.asarray(np.maximum(Z, -87.0))
    np.negative(A, out=A)  # in place, a tenth faster
    np.exp(A, out=A)
    A += 1
    return np.reciprocal(A, out=A)


def sigmoid_derivative(A: Array) -> Array:
    """Return dσ/dZ = σ(1 − σ), given A = σ(Z).

    Source: Bishop (2006), eq. 4.88.

    >>> sigmoid_derivative(np.array([0.5, 0.75])).tolist()
    [0.25, 0.1875]
    """
    return A * (1 - A)


def tanh(Z: Array) -> Array:
    """Return the hyperbolic tangent, each element in [−1, 1].

    Source: Bishop (2006), eq. 5.59.

    >>> tanh(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.7616, 0.0, 0.7616]
    """
    return np.tanh(Z)


def tanh_derivative(A: Array) -> Array:
    """Return dtanh/dZ = 1 − tanh², given A = tanh(Z): not (1 − A)², as the lesson's eq. 23 has it.

    Source: Bishop (2006), eq. 5.60.

    >>> tanh_derivative(np.array([-0.5, 0.0, 0.5])).tolist()
    [0.75, 1.0, 0.75]
    """
    squares = A * A
    return np.subtract(1.0, squares, out=squares)  # in place: a quarter faster than 1 - A * A


def relu(Z: Array) -> Array:
    """Return max(0, Z).

    Source: Glorot, Bordes and Bengio, Deep Sparse Rectifier Neural Networks (AISTATS 2011), section 3.

    >>> relu(np.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """
    return np.maximum(Z, 0.0)


def relu_derivative(A: Array) -> Array:
    """Return 1 where A = relu(Z) is above 0, else 0; at the kink 0, as in TensorFlow.

    >>> relu_derivative(np.array([0.0, 3.0])).tolist()
    [0.0, 1.0]
    """
    return (A > 0).astype(A.dtype)


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (tanh, tanh_derivative),
    "sigmoid": (sigmoid, sigmoid_derivative),
    "relu": (relu, relu_derivative),
}


def binary_cross_entropy(Z: Array, Y: Array) -> float:
    """Return the batch mean of −Y log σ(Z) − (1 − Y) log(1 − σ(Z)), computed from the logits.

    Args:
        Z: (1, m) logits of the one output unit.
        Y: (1, m) labels, 0 or 1.

    Source: Bishop (2006), eq. 4.90; the form without overflow, max(Z, 0) − ZY + log(1 + e^-|Z|), is that of
    TensorFlow's `tf.nn.sigmoid_cross_entropy_with_logits`.

    >>> round(binary_cross_entropy(np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]])), 4)  # log 2, log(1 + e²)
    1.41
    >>> binary_cross_entropy(np.array([[1e4]]), np.array([[0.0]]))
    10000.0
    """
    losses = np.maximum(Z, 0) - Z * Y + np.log1p(np.exp(-np.abs(Z)))
    return float(losses.mean(dtype=np.float64))


def softmax(Z: Array) -> Array:
    """Return e^Z / Σ e^Z down each column: the probabilities of the classes, one sample a column.

    Each column is first shifted so that its largest element is 0, which changes nothing but prevents overflow.

    Args:
        Z: (n_out, m) logits.

    Source: Bishop (2006), eq. 4.62; the shift: Blanchard, Higham and Higham, Accurately Computing the
    Log-Sum-Exp and Softmax Functions (IMA J. Numer. Anal. 41, 2021).

    >>> softmax(np.array([[0.0, 1e4], [np.log(3.0), 0.0]])).round(4).tolist()
    [[0.25, 1.0], [0.75, 0.0]]
    """
    E: Array = np.exp(Z - Z.max(axis=0))
    E /= E.sum(axis=0)
    return E


def categorical_cross_entropy(Z: Array, Y: Array) -> float:
    """Return the batch mean of −Σ Y log softmax(Z), the sum down each column, computed from the logits.

    Args:
        Z: (n_out, m) logits.
        Y: (n_out, m) one-hot labels.

    Source: Bishop (2006), eq. 4.108; the shift as in `softmax`.

    >>> Z = np.array([[0.0, 1e4], [np.log(3.0), 0.0]])
    >>> round(categorical_cross_entropy(Z[:, :1], np.array([[1.0], [0.0]])), 4)  # log 4
    1.3863
    >>> categorical_cross_entropy(Z[:, 1:], np.array([[0.0], [1.0]]))
    10000.0
    """
    shifted = Z - Z.max(axis=0)
    losses = np.log(np.exp(shifted).sum(axis=0)) - (Y * shifted).sum(axis=0)  # (m,)
    return float(losses.mean(dtype=np.float64))


def labels(Z: Array) -> NDArray[np.int64]:
    """Return the (m,) labels that logits stand for: one unit is 1 where Z > 0, several are the argmax.

    Z > 0 is σ(Z) > 0.5, the lesson's threshold. Of 0-1 or one-hot labels Y it returns the labels themselves.

    >>> labels(np.array([[-0.1, 0.0, 0.1]])).tolist()
    [0, 0, 1]
    >>> labels(np.array([[1.0, 3.0], [2.0, -4.0]])).tolist()
    [1, 0]
    """
    found: NDArray[np.int64] = (Z[0] > 0).astype(np.int64) if len(Z) == 1 else Z.argmax(axis=0)
    return found
