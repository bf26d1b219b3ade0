"""Stage train_scratch: the lesson's task learned, the same bytes from the same seed, rows turned into columns."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import dataset, metrics, nn, train_scratch
from pipeline.errors import TrainingError


def prepared(settings):
    return dataset.make(settings, settings.scratch.dataset)


def train(settings, data=None, **changes):
    data = prepared(settings) if data is None else data
    return train_scratch.run(replace(settings.scratch, **changes), data, settings.seed)


def scores(result, data):
    return metrics.score(train_scratch.logits(result, data["X_test"]), data["Y_test"])


@pytest.fixture(scope="module")
def default(settings_of):
    return settings_of()


@pytest.fixture(scope="module")
def digits(settings_of):
    """Settings for ten classes of digits, with few rows in training."""
    return settings_of("mnist=digits", "scratch.dataset=mnist", "scratch.learning_rate=0.5")


def test_default_settings_reach_the_lessons_accuracy_over_seeds(default):
    accuracies = []
    for seed in range(5):
        settings = replace(default, seed=seed)
        data = prepared(settings)
        accuracies.append(scores(train(settings, data), data).accuracy)
    assert np.mean(accuracies) >= 0.95
    assert min(accuracies) >= 0.94


def test_the_lessons_experiment_gives_the_figures_that_the_lesson_prints(settings_of):
    settings = settings_of("experiment=lesson")
    data = prepared(settings)
    assert len(data["X_train"]) == 4000
    assert len(data["X_val"]) == 0
    figures = {}
    result = train_scratch.run(settings.scratch, data, settings.seed, lambda epoch, metrics: figures.update(metrics))
    assert 0.92 <= scores(result, data).accuracy <= 0.945
    assert 0.115 <= figures["last_batch_loss"] <= 0.135


def test_weights_have_the_lessons_names_and_shapes(default):
    result = train(default, epochs=1)
    shapes = {name: array.shape for name, array in result.weights.items()}
    assert shapes == {"W1": (10, 20), "b1": (10, 1), "W2": (1, 10), "b2": (1, 1)}
    assert result.activations == ("tanh", "sigmoid")
    assert result.summary.splitlines()[-1] == "221 parameters"


@pytest.mark.parametrize("seed", [0, 7])
def test_one_seed_gives_one_net_to_the_bit(default, seed):
    settings = replace(default, seed=seed)
    assert train(settings, epochs=3).weights_sha256 == train(settings, epochs=3).weights_sha256


def test_seed_0_is_a_seed_of_its_own(default):
    data = prepared(default)
    digests = {train(replace(default, seed=seed), data, epochs=1).weights_sha256 for seed in (0, 1, 2)}
    assert len(digests) == 3


def test_history_has_keras_keys_and_reaches_the_callback(default):
    seen = []
    result = train_scratch.run(
        replace(default.scratch, epochs=3), prepared(default), 0, lambda epoch, logs: seen.append((epoch, logs))
    )
    assert list(result.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    assert {name: [logs[name] for _, logs in seen] for name in result.history} == result.history


def test_no_validation_rows_no_val_keys(settings_of):
    result = train(settings_of("preprocess.validation_fraction=0"), epochs=1)
    assert list(result.history) == ["loss", "accuracy"]


def test_unshuffled_it_takes_the_rows_in_their_order(default):
    data = prepared(default)
    result = train(default, data, epochs=2, shuffle=False)
    other = {name: array[::-1] if name in ("X_train", "Y_train") else array for name, array in data.items()}
    assert train(default, other, epochs=2, shuffle=False).weights_sha256 != result.weights_sha256
    assert train(default, data, epochs=2).weights_sha256 != result.weights_sha256


def test_learning_rate_is_honoured(default):
    data = prepared(default)
    losses = [train(default, data, epochs=2, learning_rate=rate).history["loss"][-1] for rate in (1e-4, 0.5)]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3)  # hardly a step from a coin's loss
    assert losses[1] < 0.5


def test_it_learns_ten_classes_too(digits):
    data = prepared(digits)
    result = train(digits, data, epochs=40, n_hidden=32)
    assert result.weights["W2"].shape == (10, 32)
    assert result.activations == ("tanh", "softmax")
    assert scores(result, data).accuracy > 0.8


def test_images_are_trained_in_float32(digits):
    result = train(digits, epochs=1)
    assert {array.dtype for array in result.weights.values()} == {np.dtype("float32")}


def test_logits_are_those_of_the_net(default):
    data = prepared(default)
    result = train(default, data, epochs=2)
    proba = nn.ShallowNN(result.weights, "tanh").predict_proba(data["X_test"].T)
    np.testing.assert_array_equal(scores(result, data).proba, proba.T)


def test_a_training_that_diverges_names_epoch_and_learning_rate(default):
    with pytest.raises(
        TrainingError, match=r"scratch: epoch 1 of 5: .* learning_rate 1e\+200; .*scratch\.learning_rate"
    ):
        train(default, activation="relu", learning_rate=1e200, epochs=5)
