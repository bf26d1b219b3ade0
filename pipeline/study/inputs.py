"""What trainings read, for those that are done on other machines: by its md5, through DVC's cache and its remote."""

from pipeline import cache, tracking, train
from pipeline.config import Settings

_offered: set[str] = set()


def offer(settings: Settings) -> tuple[str, str | None]:
    """Put what a training reads into DVC's cache and its remote, if it has one; return the md5s.

    Returns:
        Of the data, and of the weights that it starts from, or None where these are drawn.
    """
    root = tracking.store_root()
    data, md5 = train.data_of(settings)
    _, initial_md5 = train.initial_of(settings)
    if md5 not in _offered:
        cache.keep(data, root)
    for one in {md5, initial_md5} - _offered:
        if one is not None:
            cache.push(one, root)
            _offered.add(one)
    return md5, initial_md5
