"""One `seed` in the settings, one independent generator for each use of it."""

from typing import Literal

import numpy as np

Use = Literal["split", "init", "shuffle", "keras"]
_STREAM: dict[Use, int] = {"split": 0, "init": 1, "shuffle": 2, "keras": 3}


def generator(seed: int, use: Use) -> np.random.Generator:
    """Return the generator of one use, so that drawing more for one never shifts what another draws.

    Args:
        seed: ≥ 0; 0 is a seed like any other.
        use: what the numbers are drawn for.

    >>> generator(0, "init").random() == generator(0, "init").random()
    True
    >>> generator(0, "init").random() == generator(0, "shuffle").random()
    False
    """
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAM[use]]))
