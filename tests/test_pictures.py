"""The pictures: that they repeat to the byte, take the shapes they claim, and say the right facts."""

import struct
import subprocess
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline import pictures
from pipeline.nn.functions import ACTIVATIONS

RNG = np.random.default_rng(0)
DIGITS = RNG.random((30, 784), dtype=np.float32)
LABELS = np.arange(30) % 10
PROBA = np.eye(10)[LABELS]  # of a net that is right and sure
HISTORY = {"loss": [0.5, 0.2], "accuracy": [0.8, 0.9], "val_loss": [0.3, 0.4], "val_accuracy": [0.85, 0.8]}

EACH: dict[str, Callable[[], Figure]] = {
    "sample_digits": lambda: pictures.sample_digits(DIGITS, LABELS),
    "first_layer_weights": lambda: pictures.first_layer_weights(DIGITS - 0.5),
    "first_layer_weights of 20 features": lambda: pictures.first_layer_weights(DIGITS[:10, :20] - 0.5),
    "most_confident_errors": lambda: pictures.most_confident_errors(DIGITS, LABELS, np.roll(PROBA, 1, axis=1)),
    "confusion_matrix": lambda: pictures.confusion_matrix(np.eye(10, dtype=int), list("0123456789")),
    "learning_curves": lambda: pictures.learning_curves(HISTORY, "keras on mnist"),
    "roc_curve": lambda: pictures.roc_curve(np.array([0, 0, 1.0]), np.array([0, 0.5, 1.0]), 0.75),
    "activations": pictures.activations,
}


def words(figure: Figure) -> list[str]:
    """Return every text of a figure that is not empty."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", EACH)
def test_same_input_gives_same_png_bytes_of_modest_size(name: str) -> None:
    first, second = pictures.to_png(EACH[name]()), pictures.to_png(EACH[name]())
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert len(first) < 200_000


def test_png_carries_neither_version_nor_time() -> None:
    png = pictures.to_png(pictures.activations())
    kinds, at = [], 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        kinds.append(kind)
        at += length + 12
    assert set(kinds) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_users_matplotlib_settings_change_nothing_and_stay() -> None:
    plain = pictures.to_png(EACH["learning_curves"]())
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 20}):
        assert pictures.to_png(EACH["learning_curves"]()) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_pyplot_is_not_imported() -> None:
    check = "import sys; from pipeline import pictures as p; p.to_png(p.activations()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "matplotlib.figure" in done.stdout.split()
    assert "matplotlib.pyplot" not in done.stdout.split()


def test_importing_the_module_does_not_import_matplotlib() -> None:
    check = "import sys; import pipeline.pictures; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=True).stdout == b"False\n"


def test_flat_and_square_images_give_the_same_picture() -> None:
    flat, square = DIGITS, DIGITS.reshape(-1, 28, 28)
    assert pictures.to_png(pictures.sample_digits(flat, LABELS)) == pictures.to_png(
        pictures.sample_digits(square, LABELS)
    )


def test_sample_digits_shows_the_first_20_under_their_labels() -> None:
    figure = pictures.sample_digits(DIGITS, LABELS)
    assert len([axes for axes in figure.axes if axes.images]) == 20
    assert [axes.get_title() for axes in figure.axes] == [str(label) for label in LABELS[:20]]


@pytest.mark.parametrize("n", [1, 7])
def test_fewer_than_20_digits_are_all_shown(n: int) -> None:
    figure = pictures.sample_digits(DIGITS[:n], LABELS[:n])
    assert len([axes for axes in figure.axes if axes.images]) == n


@pytest.mark.parametrize("shape", [(5, 20), (5, 28, 27), (5, 28, 28, 1)])
def test_images_that_are_not_square_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \(n, side \* side\) or .* but the shape is"):
        pictures.sample_digits(np.zeros(shape), np.zeros(5, dtype=int))


@pytest.mark.parametrize(("n_units", "shown"), [(1, 1), (4, 4), (25, 25), (512, 25)])
def test_square_inputs_are_shown_as_at_most_25_images(n_units: int, shown: int) -> None:
    figure = pictures.first_layer_weights(RNG.normal(size=(n_units, 784)))
    assert sum(bool(axes.images) and axes.images[0].get_array().shape == (28, 28) for axes in figure.axes) == shown
    assert f"Weights into {shown} of {n_units} hidden units, as 28 × 28 images" in words(figure)


@pytest.mark.parametrize("n_units", [1, 10, 512])
def test_other_inputs_are_shown_as_one_map_of_units_and_features(n_units: int) -> None:
    W = RNG.normal(size=(n_units, 20))
    figure = pictures.first_layer_weights(W)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), W)
    assert {"feature", "hidden unit"} <= set(words(figure))


@pytest.mark.parametrize("n_features", [20, 784])
def test_weights_are_coloured_about_zero_even_if_all_are_zero(n_features: int) -> None:
    for W in (RNG.normal(3, 1, size=(10, n_features)), np.zeros((10, n_features))):
        low, high = pictures.first_layer_weights(W).axes[0].images[0].get_clim()
        assert low == -high < 0


@pytest.mark.parametrize("shape", [(784,), (5, 28, 28)])
def test_weights_of_a_wrong_rank_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"W must be \(n_units, n_features\), but its shape is"):
        pictures.first_layer_weights(np.zeros(shape))


def test_most_confident_errors_come_surest_first() -> None:
    proba = PROBA.copy()
    proba[4] = 0.2 * PROBA[4] + 0.8 * np.eye(10)[9]
    proba[7] = 0.002 * PROBA[7] + 0.998 * np.eye(10)[1]
    figure = pictures.most_confident_errors(DIGITS, LABELS, proba)
    shown = [axes.get_title() for axes in figure.axes if axes.images]
    assert shown == ["true 7, said 1 (0.998)", "true 4, said 9 (0.800)"]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), DIGITS[7].reshape(28, 28))


def test_at_most_12_errors_are_shown_and_all_are_counted() -> None:
    figure = EACH["most_confident_errors"]()
    assert len([axes for axes in figure.axes if axes.images]) == 12
    assert "30 of 30 wrong; the net was surest of these" in words(figure)


def test_no_error_is_said_in_the_picture() -> None:
    figure = pictures.most_confident_errors(DIGITS, LABELS, PROBA)
    assert words(figure) == ["None wrong: all 30 images have the right label."]
    assert pictures.to_png(figure)


@pytest.mark.parametrize("k", [2, 10])
def test_confusion_matrix_holds_every_count(k: int) -> None:
    counts = np.arange(k * k).reshape(k, k)
    figure = pictures.confusion_matrix(counts, [str(label) for label in range(k)])
    assert [text.get_text() for text in figure.axes[0].texts] == [str(count) for count in range(k * k)]
    assert f"{np.trace(counts):,} of {counts.sum():,} right ({np.trace(counts) / counts.sum():.2%})" in words(figure)


def test_confusion_matrix_with_an_empty_class_is_drawn() -> None:
    assert pictures.to_png(pictures.confusion_matrix(np.array([[3, 1], [0, 0]]), ["0", "1"]))


def test_learning_curves_start_at_epoch_1_and_show_both_sets() -> None:
    loss, accuracy = pictures.learning_curves(HISTORY, "keras on mnist").axes
    assert [line.get_xdata().tolist() for line in loss.lines] == [[1, 2], [1, 2]]
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[0.8, 0.9], [0.85, 0.8]]
    assert loss.get_title(loc="left") == "loss: best on validation 0.3000, epoch 1"
    assert accuracy.get_title(loc="left") == "accuracy: best on validation 0.8500, epoch 1"


def test_learning_curves_without_validation_show_the_training_alone() -> None:
    figure = pictures.learning_curves({"loss": [0.5, 0.2], "accuracy": [0.8, 0.9]}, "scratch on synthetic")
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert "accuracy: best on training 0.9000, epoch 2" in words(figure)


def test_one_epoch_is_shown_as_points() -> None:
    figure = pictures.learning_curves({name: values[:1] for name, values in HISTORY.items()}, "one epoch")
    assert {line.get_marker() for axes in figure.axes for line in axes.lines} == {"o"}
    assert pictures.to_png(figure)


def test_activations_show_each_function_with_its_derivative() -> None:
    figure = pictures.activations()
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(ACTIVATIONS)
    for axes, (function, derivative) in zip(figure.axes, ACTIVATIONS.values(), strict=True):
        z = axes.lines[0].get_xdata()
        assert (z[0], z[-1]) == (-5, 5)
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), function(z))
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), derivative(function(z)))


def test_roc_curve_states_its_area() -> None:
    assert "ROC curve: area 0.7500" in words(EACH["roc_curve"]())
