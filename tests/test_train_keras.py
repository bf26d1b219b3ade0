"""The Keras MLP: the lesson's architecture, its history, and the same weights from the same seed."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from pipeline import metrics, train_keras
from pipeline.config import Keras
from pipeline.errors import SettingsError, TrainingError
from pipeline.prepared import scaled
from pipeline.seeds import generator

KERAS = Keras(
    dataset="mnist",
    units=(16,),
    activation="relu",
    dropout=0.0,
    l2=0.0,
    optimizer="rmsprop",
    learning_rate=0.01,
    batch_size=32,
    epochs=2,
    early_stopping=None,
    jit_compile=False,
    steps_per_execution=1,
    warm_start=False,
)


def rows(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n rows of 12 features of which the first k tell the class."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, 12)).astype(np.float32)
    Y = (X[:, :1] > 0.5) if k == 1 else np.eye(k)[X[:, :k].argmax(axis=1)]
    return X, Y.astype(np.float32)


def prepared(k: int = 3, n_val: int = 40) -> dict[str, np.ndarray]:
    parts = {"train": rows(100, k, 0), "val": rows(n_val, k, 1), "test": rows(60, k, 2)}
    return {f"{kind}_{part}": array for part, xy in parts.items() for kind, array in zip("XY", xy, strict=True)}


def test_the_lessons_net_has_407050_parameters():
    model = train_keras.build(replace(KERAS, units=(512,)), 784, 10)
    assert model.count_params() == 407_050
    shapes = {name: array.shape for name, array in train_keras.get_weights(model).items()}
    assert shapes == {
        "dense/kernel": (784, 512),
        "dense/bias": (512,),
        "dense_1/kernel": (512, 10),
        "dense_1/bias": (10,),
    }
    assert [layer.count_params() for layer in model.layers] == [401_920, 5_130]


@pytest.mark.parametrize("k", [1, 3])
def test_history_has_keras_keys_and_reaches_the_callback(k):
    seen = []
    result, _ = train_keras.run(KERAS, prepared(k), 0, lambda epoch, logs: seen.append((epoch, logs)))
    assert set(result.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert {name: [logs[name] for _, logs in seen] for name in result.history} == result.history


def test_no_validation_rows_no_val_keys():
    result, _ = train_keras.run(KERAS, prepared(n_val=0), 0)
    assert set(result.history) == {"loss", "accuracy"}


def test_same_seed_same_weights_and_zero_is_a_seed():
    data = prepared()
    digests = [train_keras.run(KERAS, data, seed)[0].weights_sha256 for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_bytes_of_pixels_are_trained_as_their_floats_are():
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (60, 12), np.uint8) for name in ("X_train", "X_val")}
    labels = {name: np.eye(3, dtype=np.uint8)[rng.integers(0, 3, 60)] for name in ("Y_train", "Y_val")}
    on_bytes, model = train_keras.run(KERAS, pixels | labels, 0)
    on_floats, _ = train_keras.run(KERAS, scaled(pixels | labels), 0)
    assert model.input_shape == (None, 12)
    assert list(on_bytes.weights) == list(on_floats.weights)
    for name, array in on_floats.weights.items():
        np.testing.assert_allclose(on_bytes.weights[name], array, atol=1e-5)


def test_steps_per_execution_changes_no_weight():
    data = prepared()
    one, many = (
        train_keras.run(replace(KERAS, steps_per_execution=steps), data, 0)[0].weights_sha256 for steps in (1, 3)
    )
    assert one == many


@pytest.mark.parametrize(("jit_compile", "steps_per_execution"), [(False, 8), (True, 8), (True, 1)])
def test_the_steps_are_those_of_keras_own_fit(jit_compile, steps_per_execution):
    """100 rows in batches of 32: three whole steps an epoch, and one of 4 rows, also as a call of its own."""
    import keras

    data, settings = prepared(), replace(KERAS, jit_compile=jit_compile, dropout=0.2, l2=0.01)
    settings = replace(settings, steps_per_execution=steps_per_execution)
    result, _ = train_keras.run(settings, data, 0)
    keras.utils.set_random_seed(int(generator(0, "keras").integers(2**32)))
    plain = train_keras.build(settings, 12, 3)
    history = plain.fit(data["X_train"], data["Y_train"], batch_size=32, epochs=2, verbose=0).history
    for name, array in train_keras.get_weights(plain).items():
        np.testing.assert_allclose(result.weights[name], array, atol=1e-5)
    assert result.history["loss"] == pytest.approx(history["loss"], rel=1e-5)
    assert result.history["accuracy"] == history["accuracy"]


@pytest.mark.parametrize(
    ("units", "k", "activation"), [((16,), 3, "relu"), ((8, 4), 1, "tanh"), ((8, 4), 3, "sigmoid")]
)
def test_numpys_logits_are_those_of_keras(units, k, activation):
    data = prepared(k)
    settings = replace(KERAS, units=units, activation=activation, dropout=0.2)
    result, model = train_keras.run(settings, data, 0)
    scores = metrics.score(train_keras.logits(result, data["X_test"]), data["Y_test"])
    np.testing.assert_allclose(scores.proba, model.predict(data["X_test"], verbose=0), rtol=1e-5)
    loss, accuracy = model.evaluate(data["X_test"], data["Y_test"], verbose=0)
    assert scores.loss == pytest.approx(loss, rel=1e-5)
    assert scores.accuracy == pytest.approx(accuracy, rel=1e-6)


def test_a_training_leaves_neither_its_rows_nor_its_graphs_behind():
    """A sweep's worker would pile them up, 60 MB a trial on MNIST."""
    import keras

    def left() -> tuple[int, int]:
        train_keras.run(replace(KERAS, jit_compile=True, steps_per_execution=8), prepared(), 0)
        keras.backend.clear_session()
        gc.collect()
        found = [found for found in gc.get_objects() if type(found).__name__ in ("FuncGraph", "EagerTensor")]
        rows = [found for found in found if type(found).__name__ == "EagerTensor" and found.shape == (100, 12)]
        return len(found) - len(rows), len(rows)

    left()
    n_graphs, n_rows = left()
    assert (n_graphs, n_rows) == left()


def test_l2_and_dropout_are_in_the_layers():
    model = train_keras.build(replace(KERAS, units=(8, 8), dropout=0.25, l2=0.5), 12, 3)
    assert [layer.name for layer in model.layers] == ["dense", "dropout", "dense_1", "dropout_1", "dense_2"]
    assert model.layers[1].rate == 0.25
    assert float(model.layers[0].kernel_regularizer.l2) == 0.5


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
def test_the_optimizer_has_the_learning_rate(optimizer):
    model = train_keras.build(replace(KERAS, optimizer=optimizer, learning_rate=0.125), 12, 3)
    assert type(model.optimizer).__name__.lower() == optimizer
    assert float(model.optimizer.learning_rate) == 0.125


def test_early_stopping_ends_at_its_best_epoch():
    settings = replace(KERAS, epochs=60, learning_rate=0.05, early_stopping=1)
    data = prepared()
    result, model = train_keras.run(settings, data, 0)
    assert result.n_epochs < 60
    val_loss, _ = model.evaluate(data["X_val"], data["Y_val"], verbose=0)
    assert val_loss == pytest.approx(min(result.history["val_loss"]), rel=1e-5)


def test_training_goes_on_from_given_weights():
    data = prepared()
    first, _ = train_keras.run(KERAS, data, 0)
    again, _ = train_keras.run(replace(KERAS, epochs=1), data, 0, initial=first.weights)
    assert again.history["loss"][0] < first.history["loss"][-1]


def test_weights_of_another_architecture_are_refused():
    data = prepared()
    first, _ = train_keras.run(KERAS, data, 0)
    with pytest.raises(SettingsError, match=r"dense/kernel is \(12, 8\) in this net and \(12, 16\)"):
        train_keras.run(replace(KERAS, units=(8,)), data, 0, initial=first.weights)


def test_a_loss_that_is_not_finite_stops_the_training():
    data = prepared()
    data["X_train"] = data["X_train"] * np.float32(1e30)
    with pytest.raises(TrainingError, match=r"in epoch 1 of 2 at learning rate 0\.01; try a smaller"):
        train_keras.run(replace(KERAS, optimizer="sgd"), data, 0)


def test_a_validation_loss_that_is_not_finite_stops_the_training():
    data = prepared()
    data["Y_val"] = data["Y_val"] * np.float32(np.nan)
    with pytest.raises(TrainingError, match=r"a finite val_loss is needed, but it is nan in epoch 1 of 2"):
        train_keras.run(KERAS, data, 0)


def test_weights_that_the_last_update_makes_infinite_stop_the_training():
    data = {name: array[:32] for name, array in prepared().items()}
    data["X_train"] = data["X_train"] * np.float32(1e20)
    settings = replace(KERAS, epochs=1, batch_size=32, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"a finite weight is needed, .* epoch 1 of 1"):
        train_keras.run(settings, data | {"X_val": data["X_val"][:0], "Y_val": data["Y_val"][:0]}, 0)


def test_summary_counts_the_parameters():
    model = train_keras.build(replace(KERAS, units=(512,)), 784, 10)
    assert "407,050" in train_keras.summary(model)
