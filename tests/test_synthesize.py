import numpy as np

from pipeline import synthesize
from pipeline.config import Synthetic

LESSON = Synthetic(n_samples=5000, n_features=20, n_informative=20, n_redundant=0, random_state=123, n_train=4000)


def test_the_lesson_s_task_has_the_lesson_s_figures() -> None:
    arrays = synthesize.run(LESSON)
    assert arrays["X_train"].shape == (4000, 20)
    assert arrays["X_test"].shape == (1000, 20)
    assert arrays["X_train"].dtype == np.float64
    np.testing.assert_allclose(arrays["X_train"][0, :3], [-0.28726786, 4.48392645, -0.19663023], atol=5e-9)
    assert arrays["y_train"][:20].tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1]


def test_the_rows_are_split_in_order_and_none_is_lost() -> None:
    whole = synthesize.run(LESSON)
    other = synthesize.run(Synthetic(**{**vars(LESSON), "n_train": 10}))
    for name in ("X", "y"):
        joined, expected = (np.concatenate([a[f"{name}_train"], a[f"{name}_test"]]) for a in (other, whole))
        np.testing.assert_array_equal(joined, expected)
    assert len(other["y_train"]) == 10


def test_another_random_state_gives_other_rows() -> None:
    other = synthesize.run(Synthetic(**{**vars(LESSON), "random_state": 0}))
    assert not np.array_equal(other["X_train"], synthesize.run(LESSON)["X_train"])
