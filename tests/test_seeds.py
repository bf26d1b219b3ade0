"""One seed, independent streams."""

import numpy as np
import pytest

from pipeline.seeds import generator

USES = ("split", "init", "shuffle", "keras")


@pytest.mark.parametrize("use", USES)
def test_same_seed_same_numbers(use):
    assert np.array_equal(generator(5, use).random(8), generator(5, use).random(8))


@pytest.mark.parametrize("use", USES)
def test_zero_is_a_seed_like_any_other(use):
    assert np.array_equal(generator(0, use).random(8), generator(0, use).random(8))
    assert not np.array_equal(generator(0, use).random(8), generator(1, use).random(8))


def test_uses_do_not_share_numbers():
    drawn = [tuple(generator(3, use).random(4)) for use in USES]
    assert len(set(drawn)) == len(USES)
