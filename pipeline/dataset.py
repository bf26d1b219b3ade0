"""A prepared dataset in memory, for runs whose data settings are not those of the files in data/."""

from pipeline import fetch, files, load, paths, preprocess, synthesize
from pipeline.config import Mnist, Settings


def make(settings: Settings, name: str) -> files.Arrays:
    """Return what `preprocess` would write for these settings, without writing a file.

    Args:
        settings: all settings; the sections of data, `preprocess` and `seed` are read.
        name: one of config.DATASETS.

    Raises:
        FileNotFoundError: a CSV that the settings name is not there.
        DataError: the images cannot be had, or are not as they must be.
        SettingsError: the split leaves nothing to train on.
    """
    loaded = _images(settings.mnist) if name == "mnist" else synthesize.run(settings.synthetic)
    return preprocess.run(settings.preprocess, settings.seed, loaded)


def _images(mnist: Mnist) -> files.Arrays:
    if fetch.is_fetched(mnist):
        return load.run(paths.TRAIN_CSV, paths.TEST_CSV, max_bytes=mnist.max_csv_bytes)
    return fetch.run(mnist)
