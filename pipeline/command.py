"""What every command line of the project shares: plain log lines, and one line for a user's mistake."""

import atexit
import functools
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.address import redact
from pipeline.errors import DataError, SettingsError, SweepError, TrainingError

USERS_ERRORS = (DataError, SettingsError, SweepError, TrainingError, OSError, MemoryError)
INTERRUPTED = 130  # 128 + SIGINT, as shells count
NEW_OBJECTS = 10_000  # after which the garbage collector looks at them; Python's own 700 are few for what is large

log = logging.getLogger(__name__)


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Return `main`, which reads no arguments, as a command that refuses them; else as `parsing_command`."""

    @functools.wraps(main)
    def run() -> None:
        if main.__module__ == "__main__":  # else they are those of another program, as in the tests
            _check_none(sys.argv[1:])
        main()

    return parsing_command(run)


def parsing_command(main: Callable[[], None]) -> Callable[[], None]:
    """Return `main` as a command: it logs to stderr, and ends a user's mistake with one line and exit code 1."""

    @functools.wraps(main)
    def run() -> None:
        configure_logging()
        collect_rarely()
        try:
            main()
        except USERS_ERRORS as error:
            sys.exit(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            log.error("interrupted")
            sys.exit(INTERRUPTED)

    return run


def _check_none(arguments: list[str]) -> None:
    if arguments:
        raise SettingsError(
            f"{Path(sys.argv[0]).stem}: no arguments are needed, but got {' '.join(map(redact, arguments))!r}; "
            "settings stand in conf/, and for one run `python -m pipeline.train` and `dvc exp run -S` take others"
        )


def one_line(error: BaseException) -> str:
    """Return an error's text for the terminal: an OSError's begins with its path.

    It is one line, but for mistakes in settings: these have a line each. What would steer the terminal is escaped.
    """
    if isinstance(error, SettingsError):
        return "\n".join(map(_printable, str(error).split("\n")))
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return _printable(" ".join(text.splitlines()))


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def configure_logging() -> None:
    """Send log lines to stderr as they are; of other packages only warnings."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("alembic", "mlflow", "matplotlib", "absl", "httpx", "botocore", "aiobotocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def collect_rarely() -> None:
    """Have Python's garbage collector look at new objects less often, and at none as the process ends.

    An import makes objects that live as long as the process: to look for garbage among them, again and again and once
    more at the end, takes a third of what TensorFlow and mlflow take to import (docs/performance.md).
    """
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
