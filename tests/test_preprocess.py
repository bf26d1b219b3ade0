import re

import numpy as np
import pytest

from pipeline import prepared, preprocess
from pipeline.config import Preprocess
from pipeline.errors import SettingsError
from pipeline.files import Arrays


def settings(fraction: float = 0.1, shuffle: bool = True, pool_test: bool = False) -> Preprocess:
    return Preprocess(validation_fraction=fraction, shuffle=shuffle, pool_test=pool_test)


def images(n: int, n_test: int) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "X_train": rng.integers(0, 256, (n, 28, 28), np.uint8),
        "y_train": rng.integers(0, 10, n, np.uint8),
        "X_test": rng.integers(0, 256, (n_test, 28, 28), np.uint8),
        "y_test": rng.integers(0, 10, n_test, np.uint8),
    }


def numbered(n: int, n_test: int) -> Arrays:
    """Return features whose first column numbers the rows, so that each is found again."""
    rows = np.arange(n + n_test, dtype=np.float64)[:, None]
    y = np.arange(n + n_test) % 2
    return {"X_train": rows[:n], "y_train": y[:n], "X_test": rows[n:], "y_test": y[n:]}


def rows(made: Arrays, part: str) -> list[int]:
    return [int(row) for row in made[f"X_{part}"][:, 0]]


def test_images_are_scaled_to_the_bit_as_the_lesson_scales_them() -> None:
    every_pixel = np.resize(np.arange(256, dtype=np.uint8), (2, 28, 28))
    loaded = images(2, 2) | {"X_train": every_pixel}
    kept = preprocess.run(settings(0), 0, loaded)["X_train"]
    assert kept.dtype == np.uint8
    X_train = prepared.scaled({"X_train": kept})["X_train"]
    expected = every_pixel.reshape(2, 784).astype("float32") / 255
    assert X_train.dtype == np.float32
    assert X_train.shape == (2, 784)
    assert X_train.tobytes() == expected.tobytes()


def test_label_4_is_0000100000() -> None:
    loaded = images(1, 1) | {"y_train": np.array([4], np.uint8)}
    Y_train = preprocess.run(settings(0), 0, loaded)["Y_train"]
    assert Y_train.dtype == np.uint8
    assert prepared.scaled({"Y_train": Y_train})["Y_train"].tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]


def test_features_pass_unscaled_with_labels_of_their_type_in_a_column() -> None:
    loaded = numbered(4, 2)
    made = preprocess.run(settings(0), 0, loaded)
    np.testing.assert_array_equal(made["X_test"], loaded["X_test"])
    assert made["Y_test"].dtype == np.float64
    assert made["Y_test"].tolist() == [[0], [1]]


def test_the_parts_have_the_shapes_of_the_lesson_s_rows() -> None:
    made = preprocess.run(settings(0.25), 0, images(8, 3))
    assert {name: array.shape for name, array in made.items()} == {
        "X_train": (6, 784),
        "Y_train": (6, 10),
        "X_val": (2, 784),
        "Y_val": (2, 10),
        "X_test": (3, 784),
        "Y_test": (3, 10),
    }


def test_drawn_validation_rows_and_the_rest_keep_their_order_and_none_is_lost() -> None:
    made = preprocess.run(settings(0.3), 0, numbered(100, 5))
    train, val = rows(made, "train"), rows(made, "val")
    assert train == sorted(train)
    assert val == sorted(val)
    assert sorted(train + val) == list(range(100))
    assert val != list(range(70, 100))
    assert made["Y_val"][:, 0].astype(int).tolist() == [row % 2 for row in val]


def test_without_shuffle_the_last_rows_validate() -> None:
    assert rows(preprocess.run(settings(0.3, shuffle=False), 0, numbered(10, 5)), "val") == [7, 8, 9]


def test_fraction_zero_leaves_no_validation_row_but_its_columns() -> None:
    made = preprocess.run(settings(0), 0, images(3, 1))
    assert (made["X_val"].shape, made["Y_val"].shape) == ((0, 784), (0, 10))
    assert len(made["X_train"]) == 3


def test_pooled_test_rows_follow_the_training_rows_and_stay_the_test_set() -> None:
    made = preprocess.run(settings(0, pool_test=True), 0, numbered(4, 2))
    assert rows(made, "train") == [0, 1, 2, 3, 4, 5]
    assert rows(made, "test") == [4, 5]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_draws_the_same_rows(seed: int) -> None:
    first, second = (preprocess.run(settings(0.5), seed, numbered(40, 1)) for _ in range(2))
    assert rows(first, "val") == rows(second, "val")


def test_another_seed_draws_other_rows() -> None:
    first, second = (preprocess.run(settings(0.5), seed, numbered(40, 1)) for seed in (0, 1))
    assert rows(first, "val") != rows(second, "val")


def test_a_fraction_that_leaves_no_training_row_is_refused() -> None:
    message = "preprocess.validation_fraction: a fraction that leaves a row to train on is needed, but got 0.9 of 2"
    with pytest.raises(SettingsError, match=re.escape(message)):
        preprocess.run(settings(0.9), 0, numbered(2, 1))


def test_the_loaded_arrays_stay_as_they_are() -> None:
    loaded = images(6, 2)
    before = {name: array.copy() for name, array in loaded.items()}
    preprocess.run(settings(0.5, pool_test=True), 0, loaded)
    for name, array in before.items():
        np.testing.assert_array_equal(loaded[name], array)
