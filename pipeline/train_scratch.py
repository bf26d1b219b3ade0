"""Stage train_scratch: the from-scratch net on a prepared dataset. Rows become the net's columns here."""

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline import cache, nn, prepared, tracking, trained
from pipeline.command import command
from pipeline.config import Scratch, load_params
from pipeline.errors import TrainingError
from pipeline.files import Arrays
from pipeline.lineage import inputs_of, overrides
from pipeline.paths import RUNS
from pipeline.progress import each, progress
from pipeline.seeds import generator
from pipeline.trained import OnEpochEnd, Trained

RUN = RUNS / "scratch"

ONE_THREAD = 1  # products of this size gain nothing from a second, and lose much where another process wants it


def run(
    settings: Scratch, data: Arrays, seed: int, on_epoch_end: OnEpochEnd = lambda epoch, metrics: None
) -> Trained:
    """Train the from-scratch net, and return what it has learned.

    Args:
        settings: section scratch.
        data: X_train (n, d), Y_train (n, k), X_val, Y_val (0 rows: no validation), as preprocess makes them.
        seed: ≥ 0; draws the initial weights and the order of the batches.
        on_epoch_end: called with the epoch from 0 and its metrics.

    Raises:
        TrainingError: the loss is not finite; names the epoch and the learning rate.
    """
    parts = prepared.scaled({name: data[name] for name in ("X_train", "Y_train", "X_val", "Y_val")})
    X, Y, X_val, Y_val = (array.T for array in parts.values())
    initial = nn.initial_weights(len(X), settings.n_hidden, len(Y), rng=generator(seed, "init"), dtype=X.dtype)
    net = nn.ShallowNN(initial, settings.activation)
    try:
        with threadpool_limits(ONE_THREAD, "blas"):
            history = nn.fit(
                net,
                X,
                Y,
                nn.Options(settings.learning_rate, settings.batch_size, settings.epochs),
                validation=(X_val, Y_val) if X_val.shape[1] else None,
                rng=generator(seed, "shuffle") if settings.shuffle else None,
                on_epoch_end=on_epoch_end,
            )
    except FloatingPointError as error:
        raise TrainingError(f"scratch: {error} (scratch.learning_rate)") from error
    return Trained(
        net="scratch",
        dataset=settings.dataset,
        activations=(settings.activation, "sigmoid" if len(Y) == 1 else "softmax"),
        weights=net.weights,
        history=history,
        summary=summary(net.weights),
    )


def logits(result: Trained, X: np.ndarray) -> np.ndarray:
    """Return the (k, n) logits of a from-scratch net for X (n, d)."""
    return nn.ShallowNN(result.weights, result.activations[0]).forward(X.T)[1]


def summary(weights: Arrays) -> str:
    """Return the shape of each array and the number of parameters, as text.

    >>> print(summary({"W1": np.zeros((10, 20)), "b1": np.zeros((10, 1))}), end="")
    W1 (10, 20)
    b1 (10, 1)
    210 parameters
    """
    lines = [f"{name} {array.shape}" for name, array in weights.items()]
    return "\n".join([*lines, f"{sum(array.size for array in weights.values()):,} parameters"]) + "\n"


@command
@cache.earlier_outputs()
def main() -> None:
    """Train on the prepared dataset that `scratch.dataset` names; write data/runs/scratch/ and a run in MLflow."""
    settings = load_params()
    tracking.prepare()  # starts now what takes seconds to start
    choice = prepared.chosen("scratch")
    data = prepared.read(choice)
    inputs = inputs_of(choice.dataset, data, choice.md5)
    with (
        tracking.start_run(settings, "scratch", inputs, overrides()) as tracked,
        progress("scratch", settings.scratch.epochs) as show,
    ):
        result = run(settings.scratch, data, settings.seed, each(show, tracked.on_epoch_end))
        trained.save(result, RUN)
        tracked.log_trained(result, RUN, settings, example=prepared.inputs(data["X_test"][:2]))
        tracked.leave()  # evaluate waits for both runs


if __name__ == "__main__":
    main()
