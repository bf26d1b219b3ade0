"""How fast the nets train: Keras beside plain `fit` and its bare products, the from-scratch net beside a loop."""

import contextlib
import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from bench import peers, plain
from bench.measure import Seconds, alternate, median, ratio
from pipeline import config, dataset, nn, prepared, train_keras
from pipeline.config import Settings
from pipeline.files import Arrays

log = logging.getLogger(__name__)

EPOCHS = 4  # of a Keras training; the first, which compiles, is left out
N_HIDDEN, BATCH, RATE = 10, 100, 0.01
PASSES = 20  # over the 4,000 samples of the binary task, 40 steps each


def keras_epochs(n: int) -> dict[str, float]:
    """Return seconds of an epoch of the default net on MNIST, and what it is to plain `fit` and the bare products."""
    settings = config.load_params()
    data = dataset.make(settings, "mnist")
    floats = prepared.scaled(data)
    works: dict[str, Callable[[], float]] = {
        "pipeline": lambda: _epoch_seconds(settings, data),
        "plain fit": lambda: _plain_epoch_seconds(settings, floats),
        "bare products": lambda: _products(settings, floats),
    }
    for name in peers.EPOCHS:
        if importlib.util.find_spec(name):
            works[name] = partial(peers.seconds, name)
        else:
            log.info("%s is not here, so not beside: `pip install %s` installs it", name, name)
    times: Seconds = {name: [] for name in works}
    for _ in range(n):
        for name, work in works.items():
            times[name].append(work())
    found = {f"{name}, s": median(times, name) for name in works}
    return found | {f"pipeline / {name}": ratio(times, "pipeline", name) for name in works if name != "pipeline"}


def _epoch_seconds(settings: Settings, data: Arrays) -> float:
    """Return the median epoch after the first, validation left out as the lesson has none."""
    ends: list[float] = []
    without = data | {"X_val": data["X_val"][:0], "Y_val": data["Y_val"][:0]}
    keras = replace(settings.keras, epochs=EPOCHS)
    train_keras.run(keras, without, settings.seed, lambda epoch, metrics: ends.append(time.perf_counter()))
    return statistics.median(np.diff(ends))


def _plain_epoch_seconds(settings: Settings, data: Arrays) -> float:
    """Return the median epoch after the first of the lesson's own `fit`."""
    import keras

    model = train_keras.build(replace(settings.keras, jit_compile=False, steps_per_execution=1), 784, 10)
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    batch = settings.keras.batch_size
    model.fit(data["X_train"], data["Y_train"], batch_size=batch, epochs=EPOCHS, verbose=0, callbacks=[clock])
    return statistics.median(np.diff(ends))


def _products(settings: Settings, data: Arrays) -> float:
    """Return the seconds of an epoch's two large products alone, X·W1 and X'·dZ1, in TensorFlow."""
    import tensorflow as tf

    batch, n_units = settings.keras.batch_size, settings.keras.units[0]
    W, dZ = tf.random.normal((784, n_units)), tf.random.normal((batch, n_units))
    rows = tf.constant(data["X_train"])
    n_steps = len(data["X_train"]) // batch

    @tf.function  # type: ignore[untyped-decorator]
    def epoch() -> tf.Tensor:
        total = tf.zeros(())
        for i in tf.range(n_steps):
            X = rows[i * batch : (i + 1) * batch]
            total += tf.matmul(X, W)[0, 0] + tf.matmul(X, dZ, transpose_a=True)[0, 0]
        return total

    epoch()
    start = time.perf_counter()
    epoch().numpy()
    return time.perf_counter() - start


def scratch_steps(n: int) -> dict[str, float]:
    """Return microseconds of a from-scratch step, and what it is to the plain loop's and scikit-learn's.

    Like with like: `step` and `plain step` compute no loss, `plain loop` that of each batch, `training` loss and
    accuracy of each sample once an epoch.
    """
    settings = config.load_params()
    data = dataset.make(settings, "synthetic")
    X, Y = np.asfortranarray(data["X_train"].T), np.asfortranarray(data["Y_train"].T)
    n_steps = PASSES * -(-X.shape[1] // BATCH)
    with threadpool_limits(1, "blas"):
        times = alternate(
            {
                "step": lambda: _steps(X, Y),
                "plain step": lambda: plain.fit(X, Y, PASSES, with_loss=False),
                "plain loop": lambda: plain.fit(X, Y, PASSES),
                "training": lambda: _fit(X, Y, None),
                "training, shuffled": lambda: _fit(X, Y, np.random.default_rng(0)),
                "MLPClassifier": _sklearn(data),
            },
            n,
        )
    found = {f"{name}, µs": median(times, name) / n_steps * 1e6 for name in times}
    return found | {
        "step / plain step": ratio(times, "step", "plain step"),
        "training / plain loop": ratio(times, "training", "plain loop"),
        "training, shuffled / MLPClassifier": ratio(times, "training, shuffled", "MLPClassifier"),
    }


def _net(X: np.ndarray) -> nn.ShallowNN:
    return nn.ShallowNN(nn.initial_weights(len(X), N_HIDDEN, 1, rng=np.random.default_rng(0)))


def _steps(X: np.ndarray, Y: np.ndarray) -> None:
    """Train batch after batch, without a loss or any other score."""
    net = _net(X)
    for _ in range(PASSES):
        for start in range(0, X.shape[1], BATCH):
            batch = slice(start, start + BATCH)
            net.step(X[:, batch], Y[:, batch], RATE)


def _fit(X: np.ndarray, Y: np.ndarray, rng: np.random.Generator | None) -> None:
    """Train with loss and accuracy an epoch."""
    nn.fit(_net(X), X, Y, nn.Options(RATE, BATCH, PASSES), rng=rng)


def _sklearn(data: Arrays) -> Callable[[], object]:
    """Return scikit-learn's training of the same net, shuffled as it always is."""
    from sklearn.neural_network import MLPClassifier

    def fit() -> None:
        net = MLPClassifier(
            (N_HIDDEN,),
            activation="tanh",
            solver="sgd",
            alpha=0,
            batch_size=BATCH,
            learning_rate_init=RATE,
            momentum=0,
            max_iter=PASSES,
            tol=0,
            n_iter_no_change=PASSES,
        )
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")  # that it has not converged
            net.fit(data["X_train"], data["Y_train"][:, 0])

    return fit
