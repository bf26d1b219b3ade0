"""The net: one hidden layer, forward, backward and update. Shapes are in pipeline/nn/__init__.py."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.nn.functions import (
    ACTIVATIONS,
    Array,
    binary_cross_entropy,
    categorical_cross_entropy,
    labels,
    sigmoid,
    softmax,
)

if TYPE_CHECKING:
    from pipeline.nn.training import Options

Weights = dict[str, Array]
NAMES = ("W1", "b1", "W2", "b2")


def initial_weights(
    n_in: int, n_hidden: int, n_out: int, *, rng: np.random.Generator, dtype: DTypeLike = np.float64
) -> Weights:
    """Return W1 and W2 drawn from N(0, 1) · 0.01, and biases of 0.

    The numbers are drawn as float64 and then rounded, so that both precisions start from the same weights.

    Args:
        n_in: number of features d.
        n_hidden: number of hidden units.
        n_out: number of output units: 1 for two classes, else one a class.
        rng: the generator to draw from.
        dtype: float32 or float64: that of the data.

    >>> {name: a.shape for name, a in initial_weights(20, 10, 1, rng=np.random.default_rng(0)).items()}
    {'W1': (10, 20), 'b1': (10, 1), 'W2': (1, 10), 'b2': (1, 1)}
    """
    return {
        "W1": (rng.standard_normal((n_hidden, n_in)) * 0.01).astype(dtype),
        "b1": np.zeros((n_hidden, 1), dtype),
        "W2": (rng.standard_normal((n_out, n_hidden)) * 0.01).astype(dtype),
        "b2": np.zeros((n_out, 1), dtype),
    }


class ShallowNN:
    """A net of one hidden layer; its output is sigmoid for one unit, softmax for several.

    Attributes:
        W1, b1, W2, b2: the weights, changed in place by `update`.
        dW1, db1, dW2, db2: the gradient of the batch-mean loss, as the last `backward` left it.

    >>> weights = {"W1": np.eye(2), "b1": np.zeros((2, 1)), "W2": np.array([[1.0, -1.0]]), "b2": np.zeros((1, 1))}
    >>> X = np.array([[0.5, 1.0], [0.5, -1.0]])
    >>> ShallowNN(weights).predict_proba(X).round(4).tolist()  # σ(0), σ(2 tanh 1)
    [[0.5, 0.821]]
    """

    def __init__(self, weights: Mapping[str, Array], activation: str = "tanh") -> None:
        """Copy the weights.

        Args:
            weights: W1 (n_hidden, d), b1 (n_hidden, 1), W2 (n_out, n_hidden), b2 (n_out, 1), of one float dtype.
            activation: of the hidden layer, a key of `ACTIVATIONS`.

        Raises:
            ValueError: the names, shapes or dtypes do not go together, or the activation is not known.
        """
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}. Received: {activation!r}")
        _check_weights(weights)
        self.activation = activation
        self._activate, self._derivative = ACTIVATIONS[activation]
        one_unit = len(weights["W2"]) == 1
        self._output = sigmoid if one_unit else softmax
        self._loss = binary_cross_entropy if one_unit else categorical_cross_entropy

        # All weights lie in one vector, and all gradients in another: an update is then one subtraction, not four.
        self._weights = np.concatenate([weights[name].ravel() for name in NAMES])
        self._gradient = np.zeros_like(self._weights)
        self._scaled = np.empty_like(self._weights)  # what an update subtracts
        shapes = [weights[name].shape for name in NAMES]
        self.W1, self.b1, self.W2, self.b2 = _views(self._weights, shapes)
        self.dW1, self.db1, self.dW2, self.db2 = _views(self._gradient, shapes)

    @property
    def weights(self) -> Weights:
        """A copy of the weights, by name."""
        return {"W1": self.W1.copy(), "b1": self.b1.copy(), "W2": self.W2.copy(), "b2": self.b2.copy()}

    def is_finite(self) -> bool:
        """Return whether every weight is a finite number."""
        return bool(np.isfinite(self._weights).all())

    def forward(self, X: Array) -> tuple[Array, Array]:
        """Return the hidden layer A1 (n_hidden, m) and the logits Z2 (n_out, m)."""
        Z1 = self.W1.dot(X)
        Z1 += self.b1
        A1 = self._activate(Z1)
        Z2 = self.W2.dot(A1)
        Z2 += self.b2
        return A1, Z2

    def backward(self, X: Array, Y: Array, A1: Array, Z2: Array) -> None:
        """Set dW1, db1, dW2, db2 to the gradient of the batch-mean loss.

        Args:
            X: (d, m) the batch.
            Y: (n_out, m) its labels.
            A1: (n_hidden, m) from `forward`.
            Z2: (n_out, m) from `forward`.

        Source: Bishop (2006), eqs. 5.53-5.56; Rumelhart, Hinton and Williams, Nature 323 (1986).
        """
        m = Y.shape[1]
        ones = _ones(m, Y.dtype.char)  # Z.dot(ones) is the sum over the batch, in half the time of Z.sum(axis=1)
        A2 = self._output(Z2)
        dZ2 = A2 - Y  # both for sigmoid with binary and softmax with categorical cross-entropy
        dZ2 *= 1 / m  # of the mean; all that follows inherits it
        dZ2.dot(A1.T, out=self.dW2)
        dZ2.dot(ones, out=self.db2)
        dZ1 = self.W2.T.dot(dZ2)  # (n_hidden, m)
        dZ1 *= self._derivative(A1)
        dZ1.dot(X.T, out=self.dW1)
        dZ1.dot(ones, out=self.db1)

    def update(self, learning_rate: float) -> None:
        """Take one step down the gradient: W1 −= learning_rate · dW1, and so b1, W2 and b2."""
        self._weights -= np.multiply(self._gradient, learning_rate, out=self._scaled)

    def step(self, X: Array, Y: Array, learning_rate: float) -> Array:
        """Train on one batch; return its logits Z2 (n_out, m) from before the update."""
        A1, Z2 = self.forward(X)
        self.backward(X, Y, A1, Z2)
        self.update(learning_rate)
        return Z2

    def fit(
        self, X: Array, Y: Array, options: "Options", *, rng: np.random.Generator | None = None
    ) -> dict[str, list[float]]:
        """Train on X (d, m) and Y (n_out, m), in place; return loss and accuracy by epoch, see `training.fit`."""
        from pipeline.nn.training import fit  # which imports this module

        return fit(self, X, Y, options, rng=rng)

    def gradients(self, X: Array, Y: Array) -> Weights:
        """Return the gradient of the batch-mean loss, under the names of the weights."""
        self.check(X, Y)
        self.backward(X, np.asarray(Y, X.dtype), *self.forward(X))
        return {"W1": self.dW1.copy(), "b1": self.db1.copy(), "W2": self.dW2.copy(), "b2": self.db2.copy()}

    def score(self, Z2: Array, Y: Array) -> dict[str, float]:
        """Return the mean `loss` and the `accuracy` of logits Z2 (n_out, m), given the labels Y (n_out, m)."""
        n_right = int(np.count_nonzero(labels(Z2) == labels(Y)))
        return {"loss": self._loss(Z2, Y), "accuracy": n_right / Y.shape[1]}

    def evaluate(self, X: Array, Y: Array) -> dict[str, float]:
        """Return the mean `loss` and the `accuracy` on data."""
        self.check(X, Y)
        return self.score(self.forward(X)[1], Y)

    def accuracy(self, X: Array, Y: Array) -> float:
        """Return the fraction of the samples whose predicted label is the one in Y (n_out, m)."""
        return self.evaluate(X, Y)["accuracy"]

    def predict_proba(self, X: Array) -> Array:
        """Return A2 (n_out, m): the probability of class 1 for one unit, of each class for several."""
        return self._output(self.forward(X)[1])

    def predict(self, X: Array) -> NDArray[np.int64]:
        """Return the (m,) labels: one unit is 1 where its probability is above 0.5, several are the argmax."""
        return labels(self.forward(X)[1])

    def check(self, X: Array, Y: Array) -> None:
        """Check that data fit the net.

        Raises:
            ValueError: X is not (d, m), Y not (n_out, m), m is 0, or X has not the weights' dtype.
        """
        n_out, d = len(self.W2), self.W1.shape[1]
        if X.ndim != 2 or X.shape[0] != d or X.shape[1] == 0 or Y.shape != (n_out, X.shape[1]):
            raise ValueError(f"X must be ({d}, m) and Y ({n_out}, m), m > 0. Received: {X.shape} and {Y.shape}")
        if X.dtype != self.W1.dtype:
            raise ValueError(f"X must be {self.W1.dtype}, as the weights are. Received: {X.dtype}")


def _check_weights(weights: Mapping[str, Array]) -> None:
    """Raise ValueError unless the weights are those of one net."""
    shapes = {name: np.shape(array) for name, array in weights.items()}
    if set(shapes) != set(NAMES) or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"weights must be the matrices {', '.join(NAMES)}. Received: {shapes}")
    n_hidden, n_out = shapes["W1"][0], shapes["W2"][0]
    if shapes["b1"] != (n_hidden, 1) or shapes["W2"][1] != n_hidden or shapes["b2"] != (n_out, 1):
        raise ValueError(f"weights must be (h, d), (h, 1), (k, h) and (k, 1). Received: {shapes}")
    dtypes = {str(array.dtype) for array in weights.values()}
    if dtypes not in ({"float32"}, {"float64"}):
        raise ValueError(f"weights must be all float32 or all float64. Received: {', '.join(sorted(dtypes))}")


@lru_cache(maxsize=8)
def _ones(m: int, dtype: str) -> Array:
    """Return a column (m, 1) of ones."""
    return np.ones((m, 1), dtype)


def _views(vector: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return consecutive pieces of `vector` in the given shapes, sharing its memory."""
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]
