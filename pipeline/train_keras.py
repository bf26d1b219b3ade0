"""Stage train_keras: a Keras MLP on a prepared dataset. The one module that imports tensorflow."""

import contextlib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline import cache, prepared, tracking, trained
from pipeline.command import command
from pipeline.config import Keras, load_params
from pipeline.errors import SettingsError, TrainingError
from pipeline.files import Arrays
from pipeline.lineage import inputs_of, overrides
from pipeline.nn.functions import ACTIVATIONS
from pipeline.paths import RUNS
from pipeline.progress import each, progress
from pipeline.seeds import generator
from pipeline.trained import HISTORY_KEYS, OnEpochEnd, Trained

RUN = RUNS / "keras"
# What importing keras imports where it can, for parts of it that are not used here: 1.7 of 4.1 s, and 150 of 700 MB.
UNUSED_BY_KERAS = ("PIL", "matplotlib", "pandas", "sklearn", "tensorboard")
VALIDATION_ROWS = 1024  # scored at once; more takes memory

log = logging.getLogger(__name__)


def run(
    settings: Keras,
    data: Arrays,
    seed: int,
    on_epoch_end: OnEpochEnd = lambda epoch, metrics: None,
    *,
    initial: Arrays | None = None,
) -> tuple[Trained, Any]:
    """Train the MLP, and return what it has learned with the `keras.Model` itself.

    Args:
        settings: section keras.
        data: X_train (n, d), Y_train (n, k), X_val, Y_val (0 rows: no validation), as preprocess makes them.
        seed: ≥ 0; draws the initial weights, the order of the batches and the dropout.
        on_epoch_end: called with the epoch from 0 and its metrics.
        initial: weights to start from, as `Trained.weights` of an equal architecture; None: drawn anew.

    Raises:
        TrainingError: a figure or a weight is not finite; names the epoch and the learning rate.
        SettingsError: `initial` does not fit the architecture.
    """
    keras = _keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(int(generator(seed, "keras").integers(2**32)))
    model = build(settings, data["X_train"].shape[1], data["Y_train"].shape[1])
    if initial is not None:
        _set_weights(model, initial)
    trainer = _trainer(model, settings, data["X_train"], data["Y_train"])
    history = trainer.fit(
        np.arange(len(data["X_train"])),
        batch_size=settings.batch_size * settings.steps_per_execution,
        epochs=settings.epochs,
        validation_data=(data["X_val"], data["Y_val"]) if len(data["X_val"]) else None,
        validation_batch_size=VALIDATION_ROWS,
        callbacks=_callbacks(settings, on_epoch_end),
        verbose=0,
    )
    weights = get_weights(model)
    if not all(np.isfinite(array).all() for array in weights.values()):  # the last update, which no loss has seen
        raise _diverged(settings, "weight", math.nan, len(history.epoch) - 1)
    result = Trained(
        net="keras",
        dataset=settings.dataset,
        activations=(settings.activation,) * len(settings.units) + (model.layers[-1].activation.__name__,),
        weights=weights,
        history={key: list(map(float, history.history[key])) for key in HISTORY_KEYS if key in history.history},
        summary=summary(model),
    )
    return result, model


def load() -> None:
    """Load TensorFlow, which takes seconds, before it is needed."""
    _keras()


def build(settings: Keras, n_features: int, n_outputs: int) -> Any:
    """Return the compiled `keras.Model`: dense hidden layers, then one sigmoid or several softmax units.

    Args:
        settings: section keras.
        n_features: columns of X, d.
        n_outputs: columns of Y, k.
    """
    keras = _keras()
    model = keras.Sequential([keras.Input((n_features,))], name="mlp")
    for i, n_units in enumerate(settings.units):
        penalty = keras.regularizers.L2(settings.l2) if settings.l2 else None
        model.add(
            keras.layers.Dense(
                n_units, settings.activation, kernel_regularizer=penalty, name=f"dense_{i}" if i else "dense"
            )
        )
        if settings.dropout:
            model.add(keras.layers.Dropout(settings.dropout, name=f"dropout_{i}" if i else "dropout"))
    last = f"dense_{len(settings.units)}"
    model.add(keras.layers.Dense(n_outputs, "softmax" if n_outputs > 1 else "sigmoid", name=last))
    _compile(model, settings)
    return model


def _compile(model: Any, settings: Keras) -> None:
    keras = _keras()
    optimizers = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    model.compile(
        optimizer=optimizers[settings.optimizer](settings.learning_rate),
        loss="categorical_crossentropy" if model.output_shape[-1] > 1 else "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=settings.jit_compile,
    )


def _trainer(model: Any, settings: Keras, X: np.ndarray, Y: np.ndarray) -> Any:
    """Return a model of the same layers that is fitted to the numbers of rows, and has the rows themselves.

    What `fit` calls a batch is then all steps of one call into TensorFlow, which finds each step's rows in its own
    memory: Keras's own batches, made beside the training, cost half as much as the training itself. Bytes of pixels
    are scaled step by step: MNIST takes 50 MB where its floats, and TensorFlow's copy of them, take 400.

    Args:
        model: as `build` makes it.
        settings: section keras.
        X: (n, d) float, or bytes of pixels; an array or a tensor.
        Y: (n, k), likewise.
    """
    keras = _keras()
    import tensorflow as tf

    rows = tf.convert_to_tensor(X), tf.convert_to_tensor(Y)  # a copy, unless they are tensors
    size = settings.batch_size

    class Scaled(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Bytes as numbers from 0 to 1."""

        def call(self, X: Any) -> Any:
            return keras.ops.cast(X, "float32") / 255

    class Trainer(keras.Sequential):  # type: ignore[misc, name-defined]
        """Trains on batches of the rows, in the order in which their numbers come."""

        def train_step(self, numbers: Any) -> Any:
            """Take all steps of one call; return the metrics."""
            tf.function(self._steps, jit_compile=settings.jit_compile)(numbers, *rows)
            return self.get_metrics_result()

        def _steps(self, numbers: Any, *rows: Any) -> None:
            """Take the rows as arguments: TensorFlow keeps for good what a compiled function has captured."""
            n = tf.shape(numbers)[0]
            n_whole = n // size * size  # in batches of that size, before a smaller one

            def step(start: Any) -> list[Any]:
                self._step(tf.gather(numbers, start + tf.range(size)), rows)  # XLA compiles no slice beyond the end
                return [start + size]

            def last_step() -> Any:
                self._step(numbers[n_whole:], rows)
                return n

            tf.while_loop(lambda start: start < n_whole, step, [tf.constant(0)])
            tf.cond(n_whole < n, last_step, lambda: n)

        def _step(self, numbers: Any, rows: tuple[Any, ...]) -> None:
            batch = tuple(tf.gather(array, numbers) for array in rows)
            # as if of several replicas: else Keras sums over the one, which registers the step's graph for good
            tf.distribute.get_replica_context().merge_call(lambda strategy: super(Trainer, self).train_step(batch))

    scale = [Scaled()] if X.dtype == np.uint8 else []
    trainer = Trainer([keras.Input(X.shape[1:], dtype=X.dtype.name), *scale, *model.layers])
    _compile(
        trainer, replace(settings, jit_compile=False)
    )  # of Keras's own: compiling validation costs more than it saves
    _make_state(trainer, X[:1], Y[:1])
    return trainer


def _make_state(trainer: Any, X: np.ndarray, Y: np.ndarray) -> None:
    """Make the variables of the optimizer and of the metrics, which cannot be made within compiled steps."""
    predicted = trainer(X)
    trainer.compute_loss(X, Y, predicted)
    trainer.compute_metrics(X, Y, predicted)
    trainer.optimizer.build(trainer.trainable_variables)


def logits(result: Trained, X: np.ndarray) -> np.ndarray:
    """Return the (k, n) logits of a Keras net, computed by NumPy: evaluating needs no TensorFlow.

    Args:
        result: a Keras net.
        X: (n, d) float.

    Returns:
        float32; its softmax or sigmoid is `model.predict(X).T` up to rounding.
    """
    names = list(result.weights)  # dense/kernel, dense/bias, dense_1/kernel, ...
    A = X.astype(np.float32, copy=False).T  # (d, n)
    for i, (kernel, bias) in enumerate(zip(names[::2], names[1::2], strict=True)):
        Z = result.weights[kernel].T @ A + result.weights[bias][:, None]
        A = ACTIVATIONS[result.activations[i]][0](Z) if i < len(names) // 2 - 1 else Z
    return A


def get_weights(model: Any) -> Arrays:
    """Return the weights as `<layer>/kernel` (n_in, n_out) and `<layer>/bias` (n_out,), first layer first."""
    return {
        f"{layer.name}/{variable.name}": np.asarray(variable)
        for layer in model.layers
        for variable in layer.trainable_variables
    }


def summary(model: Any) -> str:
    """Return `model.summary()` as text."""
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines) + "\n"


def _set_weights(model: Any, initial: Arrays) -> None:
    for name, array in get_weights(model).items():
        if name not in initial or initial[name].shape != array.shape:
            found = initial[name].shape if name in initial else "nothing"
            raise SettingsError(
                f"keras.warm_start: weights of the same layers are needed, but {name} is {array.shape} "
                f"in this net and {found} in {RUN}; see keras.units"
            )
    for layer in model.layers:
        layer.set_weights([initial[f"{layer.name}/{variable.name}"] for variable in layer.trainable_variables])


def _callbacks(settings: Keras, on_epoch_end: OnEpochEnd) -> list[Any]:
    keras = _keras()

    def report(epoch: int, logs: dict[str, float]) -> None:
        metrics = {name: float(logs[name]) for name in HISTORY_KEYS if name in logs}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise _diverged(settings, name, value, epoch)
        on_epoch_end(epoch, metrics)

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=report)]
    if settings.early_stopping is not None:
        stopping = keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=settings.early_stopping, restore_best_weights=True
        )
        callbacks.append(stopping)
    return callbacks


def _diverged(settings: Keras, name: str, value: float, epoch: int) -> TrainingError:
    return TrainingError(
        f"keras: a finite {name} is needed, but it is {value} in epoch {epoch + 1} of {settings.epochs} "
        f"at learning rate {settings.learning_rate}; try a smaller keras.learning_rate"
    )


def _keras() -> Any:
    """Return the keras module on its TensorFlow backend; the import takes seconds, so only who trains pays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _hidden(UNUSED_BY_KERAS), _quiet_stderr():
        import keras

    keras.config.disable_interactive_logging()  # MLflow has a model predict as it logs it: no second progress bar
    return keras


@contextlib.contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Let the block import none of these packages, unless they are there already."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: importing it raises ImportError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep back what is written to stderr, unless the block fails.

    TensorFlow 2.21's libraries note the processor's features as they load, whatever the log level says.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _for_training(data: Arrays) -> Arrays:
    """Return the data without test rows, and with the training rows in TensorFlow's memory: one copy, not two."""
    _keras()
    import tensorflow as tf

    kept = {name: array for name, array in data.items() if not name.endswith("_test")}
    return kept | {name: tf.constant(array) for name, array in data.items() if name.endswith("_train")}


@command
@cache.earlier_outputs()
def main() -> None:
    """Train on the prepared dataset that `keras.dataset` names; write data/runs/keras/ and a run in MLflow."""
    settings = load_params()
    tracking.prepare()  # starts now what takes seconds to start
    choice = prepared.chosen("keras")
    data = prepared.read(choice)
    inputs = inputs_of(choice.dataset, data, choice.md5)
    with (
        tracking.start_run(settings, "keras", inputs, overrides()) as tracked,
        progress("keras", settings.keras.epochs) as show,
    ):
        example = prepared.inputs(data["X_test"][:2])
        data = _for_training(data)
        result, model = run(settings.keras, data, settings.seed, each(show, tracked.on_epoch_end))
        log.info("%s", result.summary)
        trained.save(result, RUN)
        tracked.log_trained(result, RUN, settings, example=example, model=model)
        tracked.leave()  # evaluate waits for both runs


if __name__ == "__main__":
    main()
