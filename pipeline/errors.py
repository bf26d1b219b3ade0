"""The errors that a user can cause: each prints as one line, without a traceback (see `command.py`)."""


class DataError(ValueError):
    """A file of data is not what a stage needs: names the file, the row and column, and the mend."""


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type or out of range: names the key, the value and what is allowed."""


class TrainingError(ArithmeticError):
    """A training cannot go on, as its loss is no longer finite: names the epoch and the learning rate."""


class Pruned(Exception):  # noqa: N818 – it is no error
    """A training is ended early, as it promises less than others of its sweep; no mistake, and no failure."""


class SweepError(RuntimeError):
    """A sweep cannot be called a success: says how many of its trials have failed, or that no worker is left."""
