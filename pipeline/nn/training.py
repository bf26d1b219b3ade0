"""The training loop: epochs of mini-batches, and their history. Shapes are in pipeline/nn/__init__.py."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.nn.functions import Array
from pipeline.nn.net import ShallowNN

History = dict[str, list[float]]
LAST_BATCH_LOSS = "last_batch_loss"
OnEpochEnd = Callable[[int, dict[str, float]], object]


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        learning_rate: step size, > 0.
        batch_size: samples a batch, ≥ 1; the last batch of an epoch may be shorter.
        epochs: passes over the training data, ≥ 1.

    Raises:
        ValueError: a value is out of range.
    """

    learning_rate: float = 0.01
    batch_size: int = 100
    epochs: int = 500

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.batch_size >= 1 and self.epochs >= 1):
            raise ValueError(f"learning_rate > 0, batch_size >= 1 and epochs >= 1 must hold. Received: {self}")


def fit(
    net: ShallowNN,
    X: Array,
    Y: Array,
    options: Options,
    *,
    validation: tuple[Array, Array] | None = None,
    rng: np.random.Generator | None = None,
    on_epoch_end: OnEpochEnd | None = None,
) -> History:
    """Train `net` in place; return its history: loss and accuracy an epoch, and with validation data val_ of both.

    As in Keras, loss and accuracy are the means over the samples of an epoch, each batch seen just before its
    update; the val_ figures are those of the weights at the end of the epoch.

    Args:
        net: the net, with the weights to start from.
        X: (d, m) training data, of the weights' dtype.
        Y: (n_out, m) labels: 0 or 1 for one output unit, one-hot for several.
        options: how to train.
        validation: X and Y to score at the end of each epoch; None means no val_ keys.
        rng: draws a new order of the samples for each epoch; None means the order given.
        on_epoch_end: called as on_epoch_end(epoch, metrics) after each epoch, epoch counted from 0. In the last epoch
            metrics have LAST_BATCH_LOSS, too: what the lesson prints, the mean over the last batch alone.

    Raises:
        ValueError: data do not fit the net.
        FloatingPointError: the loss or a weight is no longer finite.
    """
    X, Y = _as_data(net, X, Y)
    if validation is not None:
        validation = _as_data(net, *validation)
    history: History = {}
    for epoch in range(options.epochs):
        with np.errstate(over="ignore", invalid="ignore"):  # _check_finite reports what comes of it
            Z2, Y_seen = _epoch(net, X, Y, options, rng)
            metrics = net.score(Z2, Y_seen)
            if validation is not None:
                metrics |= {f"val_{name}": value for name, value in net.evaluate(*validation).items()}
        _check_finite(net, metrics, epoch, options)
        for name, value in metrics.items():
            history.setdefault(name, []).append(value)
        if epoch + 1 == options.epochs:
            last = slice((Y.shape[1] - 1) // options.batch_size * options.batch_size, None)
            metrics[LAST_BATCH_LOSS] = net.score(Z2[:, last], Y_seen[:, last])["loss"]
        if on_epoch_end is not None:
            on_epoch_end(epoch, metrics)
    return history


def _epoch(
    net: ShallowNN, X: Array, Y: Array, options: Options, rng: np.random.Generator | None
) -> tuple[Array, Array]:
    """Train on each sample once; return the logits Z2 (n_out, m) from before each update, and their labels."""
    n, size = X.shape[1], options.batch_size
    if rng is not None:
        order = rng.permutation(n)
        X, Y = (A.T.take(order, axis=0).T for A in (X, Y))  # at once: by batches, a third of a step's time
    Z2 = np.empty_like(Y)  # of all samples, to score them at once: one batch of 100 takes 10 µs
    for start in range(0, n, size):
        batch = slice(start, start + size)
        Z2[:, batch] = net.step(X[:, batch], Y[:, batch], options.learning_rate)
    return Z2, Y


def _as_data(net: ShallowNN, X: Array, Y: Array) -> tuple[Array, Array]:
    """Return X and Y, checked against the net, in one dtype and with each sample's numbers side by side."""
    net.check(X, Y)
    return np.asfortranarray(X), np.asfortranarray(Y, X.dtype)  # X = rows.T is already so: no copy


def _check_finite(net: ShallowNN, metrics: dict[str, float], epoch: int, options: Options) -> None:
    """Raise FloatingPointError if a metric or a weight is not finite."""
    if not (net.is_finite() and all(map(math.isfinite, metrics.values()))):
        raise FloatingPointError(
            f"epoch {epoch + 1} of {options.epochs}: loss or weights are no longer finite: loss {metrics['loss']:g}, "
            f"learning_rate {options.learning_rate:g}; try a smaller one"
        )
