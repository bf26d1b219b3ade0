"""The lesson as one plain script, without tracking or cache: what the pipeline is measured against.

python bench/plain.py TRAIN_CSV TEST_CSV: reads both with pandas, trains the from-scratch net for 500 iterations and
Keras for 10 epochs, as the lesson does, and evaluates both.
"""

import logging
import os
import sys

import numpy as np
import pandas as pd

N_HIDDEN, BATCH, ITERATIONS, RATE = 10, 100, 500, 1.0
Weights = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

log = logging.getLogger(__name__)


def initial(rng: np.random.Generator, n_features: int) -> Weights:
    """Return W1, b1, W2 and b2 as the lesson starts them."""
    W1, W2 = rng.standard_normal((N_HIDDEN, n_features)) * 0.01, rng.standard_normal((1, N_HIDDEN)) * 0.01
    return W1, np.zeros((N_HIDDEN, 1)), W2, np.zeros((1, 1))


def loss(A2: np.ndarray, Y: np.ndarray) -> float:
    """Return the loss of a batch's outputs A2 (1, m)."""
    return float(-np.sum(np.multiply(np.log(A2), Y) + np.multiply(np.log(1 - A2), 1 - Y)) / Y.shape[1])


def step(weights: Weights, X: np.ndarray, Y: np.ndarray) -> tuple[Weights, np.ndarray]:
    """Return the weights after one batch X (d, m), Y (1, m), and its outputs: each formula as the lesson has it."""
    W1, b1, W2, b2 = weights
    m = X.shape[1]
    A1 = np.tanh(np.dot(W1, X) + b1)
    A2 = 1 / (1 + np.exp(-(np.dot(W2, A1) + b2)))
    dZ2 = A2 - Y
    dW2, db2 = np.dot(dZ2, A1.T) / m, np.sum(dZ2, axis=1, keepdims=True) / m
    dZ1 = np.dot(W2.T, dZ2) * (1 - np.power(A1, 2))
    dW1, db1 = np.dot(dZ1, X.T) / m, np.sum(dZ1, axis=1, keepdims=True) / m
    return (W1 - RATE * dW1, b1 - RATE * db1, W2 - RATE * dW2, b2 - RATE * db2), A2


def fit(X: np.ndarray, Y: np.ndarray, iterations: int = ITERATIONS, *, with_loss: bool = True) -> Weights:
    """Return the weights after so many passes over X (d, n), Y (1, n); the lesson has the loss of each batch."""
    weights = initial(np.random.default_rng(0), len(X))
    for _ in range(iterations):
        for start in range(0, X.shape[1], BATCH):
            batch = slice(start, start + BATCH)
            weights, A2 = step(weights, X[:, batch], Y[:, batch])
            if with_loss:
                loss(A2, Y[:, batch])
    return weights


def from_scratch() -> None:
    """Train and evaluate the net of the binary task."""
    from sklearn.datasets import make_classification

    X, y = make_classification(n_samples=5000, n_features=20, n_informative=20, n_redundant=0, random_state=123)
    X_train, X_test, Y_train, Y_test = X[:4000].T, X[4000:].T, y[None, :4000], y[None, 4000:]
    W1, b1, W2, b2 = fit(X_train, Y_train)
    predicted = np.dot(W2, np.tanh(np.dot(W1, X_test) + b1)) + b2 > 0
    log.info("from scratch: test accuracy %.4f", np.mean(predicted == Y_test))


def keras_mlp(train_csv: str, test_csv: str) -> None:
    """Train and evaluate the MLP."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    train, test = (pd.read_csv(path).to_numpy() for path in (train_csv, test_csv))
    import keras

    X_train, X_test = (table[:, 1:].astype("float32") / 255 for table in (train, test))
    Y_train, Y_test = (keras.utils.to_categorical(table[:, 0], 10) for table in (train, test))
    model = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(512, "relu"), keras.layers.Dense(10, "softmax")]
    )
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(X_train, Y_train, epochs=10, batch_size=128, verbose=0)
    log.info("Keras: test accuracy %.4f", model.evaluate(X_test, Y_test, verbose=0)[1])


def main() -> None:
    """Do both."""
    from_scratch()
    keras_mlp(*sys.argv[1:])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
