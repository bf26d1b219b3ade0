"""How a training shows itself: a bar in a terminal, one log line an epoch elsewhere."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from pipeline.trained import OnEpochEnd

log = logging.getLogger(__name__)


def describe(metrics: dict[str, float]) -> str:
    """Return metrics as people read them.

    >>> describe({"loss": 0.123456, "val_accuracy": 0.98, "val_loss": 1e300})
    'loss 0.1235  val_accuracy 0.9800  val_loss 1e+300'
    """
    return "  ".join(f"{name} {number(value)}" for name, value in metrics.items())


def number(value: float) -> str:
    """Return a figure with four places, or if it is large with four digits.

    >>> number(0.123456), number(1e199)
    ('0.1235', '1e+199')
    """
    return f"{value:.{'4f' if abs(value) < 1e4 else '4g'}}"


@contextlib.contextmanager
def progress(title: str, n_epochs: int) -> Iterator[OnEpochEnd]:
    """Yield the callback that shows each epoch of a training."""
    if not sys.stderr.isatty():
        yield lambda epoch, metrics: log.info("%s epoch %d/%d  %s", title, epoch + 1, n_epochs, describe(metrics))
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=n_epochs, metrics="")
        yield lambda epoch, metrics: bar.update(task, completed=epoch + 1, metrics=describe(metrics))


def each(*callbacks: OnEpochEnd) -> OnEpochEnd:
    """Return one callback that calls all of them in turn."""

    def on_epoch_end(epoch: int, metrics: dict[str, float]) -> None:
        for callback in callbacks:
            callback(epoch, metrics)

    return on_epoch_end
