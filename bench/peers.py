"""`python -m bench.peers NAME`: the default Keras net's epoch in PyTorch or JAX, where that is installed.

Each in a process of its own: their libraries do not load beside TensorFlow's.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.measure import output
from pipeline import config, dataset, prepared
from pipeline.config import Keras

N_EPOCHS = 3  # the first warms up


def torch_epoch(X: np.ndarray, Y: np.ndarray, settings: Keras) -> float:
    """Return the seconds of an epoch in PyTorch.

    Args:
        X: (n, d) float32.
        Y: (n, k) float32, one-hot.
        settings: one hidden layer of relu, rmsprop.
    """
    import torch

    net = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], settings.units[0]),
        torch.nn.ReLU(),
        torch.nn.Linear(settings.units[0], Y.shape[1]),
    )
    optimizer = torch.optim.RMSprop(net.parameters(), lr=settings.learning_rate, alpha=0.9, eps=1e-7)
    rows, labels = torch.from_numpy(X), torch.from_numpy(Y.argmax(axis=1))
    for _ in range(N_EPOCHS):
        start = time.perf_counter()
        for batch in torch.randperm(len(rows)).split(settings.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(rows[batch]), labels[batch]).backward()
            optimizer.step()
    return time.perf_counter() - start


def jax_epoch(X: np.ndarray, Y: np.ndarray, settings: Keras) -> float:
    """Return the seconds of an epoch in JAX, its step compiled; arguments as of `torch_epoch`."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 2)
    shapes = ((X.shape[1], settings.units[0]), (settings.units[0], Y.shape[1]))
    layers = [
        (jax.random.normal(key, shape) * shape[0] ** -0.5, jnp.zeros(shape[1]))
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def loss(layers: list[tuple[jax.Array, jax.Array]], X: jax.Array, Y: jax.Array) -> jax.Array:
        (W1, b1), (W2, b2) = layers
        return -(Y * jax.nn.log_softmax(jax.nn.relu(X @ W1 + b1) @ W2 + b2)).sum(axis=1).mean()

    @jax.jit
    def step(layers, squares, X, Y):  # type: ignore[no-untyped-def]  # trees of arrays
        gradient = jax.grad(loss)(layers, X, Y)
        squares = jax.tree.map(lambda s, g: 0.9 * s + 0.1 * g * g, squares, gradient)
        rate = settings.learning_rate
        return jax.tree.map(lambda w, g, s: w - rate * g / jnp.sqrt(s + 1e-7), layers, gradient, squares), squares

    squares = jax.tree.map(jnp.zeros_like, layers)
    rng = np.random.default_rng(0)
    for _ in range(N_EPOCHS):
        start = time.perf_counter()
        order = rng.permutation(len(X))
        for first in range(0, len(X) - settings.batch_size + 1, settings.batch_size):
            batch = order[first : first + settings.batch_size]
            layers, squares = step(layers, squares, X[batch], Y[batch])
        jax.block_until_ready(layers)
    return time.perf_counter() - start


EPOCHS: dict[str, Callable[[np.ndarray, np.ndarray, Keras], float]] = {"torch": torch_epoch, "jax": jax_epoch}


def seconds(name: str) -> float:
    """Return the seconds of an epoch in the library of that name."""
    return float(output([sys.executable, "-m", "bench.peers", name], Path()).split()[-1])


def main() -> None:
    """Write the seconds of an epoch to stdout."""
    settings = config.load_params()
    data = prepared.scaled(dataset.make(settings, "mnist"))
    sys.stdout.write(f"{EPOCHS[sys.argv[1]](data['X_train'], data['Y_train'], settings.keras)}\n")


if __name__ == "__main__":
    main()
