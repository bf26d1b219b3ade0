"""A sweep in the terminal: progress with the best so far, the leaderboard, the command that repeats the winner."""

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SweepError
from pipeline.progress import number
from pipeline.study.options import Direction
from pipeline.study.trial import COMPLETE, FAILED, PRUNED, Outcome, Row
from pipeline.train import is_read

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 20  # rows in the terminal; MLflow has all
NOT_RESULTS = ("hydra", "hydra.", "hydra/", "objective", "net", "tracking", "tracking.", "tracking/")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Goal:
    """What is sought: the objective's name, whether the least or the greatest, among how many trials."""

    objective: str
    direction: Direction
    n_trials: int


def ranked(rows: Sequence[Row], direction: str) -> list[Row]:
    """Return complete trials, the best first, then the pruned and the failed ones; of equals the earlier first."""
    return sorted(rows, key=_order(direction))


def _order(direction: str) -> "Callable[[Row], tuple[int, float, int]]":
    """Return the key to sort trials by."""
    sign = -1 if direction == "maximize" else 1
    states = (COMPLETE, PRUNED, FAILED)
    return lambda row: (states.index(row.outcome.state), sign * (row.outcome.value or 0.0), row.number)


def best(rows: Sequence[Row], direction: str) -> Row | None:
    """Return the best complete trial; None if there is none."""
    complete = [row for row in rows if row.outcome.state == COMPLETE]
    return min(complete, key=_order(direction), default=None)


def count(rows: Sequence[Row], state: str) -> int:
    """Return how many trials have ended in this state."""
    return sum(row.outcome.state == state for row in rows)


@contextlib.contextmanager
def progress(title: str, goal: Goal) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Yield what is called with all trials that have ended, as often as one likes, and shows them.

    In a terminal it is a bar, elsewhere a log line for each that is not among those of the first call.
    """
    if not sys.stderr.isatty():
        yield _Lines(goal).tell
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[best]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=goal.n_trials, best="")
        yield lambda rows: bar.update(task, completed=len(rows), best=_so_far(rows, goal))


class _Lines:
    """Logs a line for each trial that ends, with the count and the best as they then are."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._told: list[Row] | None = None

    def tell(self, rows: Sequence[Row]) -> None:
        if self._told is None:
            self._told = list(rows)
        known = {row.number for row in self._told}
        for row in rows:
            if row.number not in known:
                self._told.append(row)
                log.info("%s", line(row, self._told, self._goal))


def leaderboard(rows: Sequence[Row], goal: Goal) -> "Table":
    """Return the best trials as a table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    keys = keys_of(rows)
    for name in columns(keys, goal):
        table.add_column(name, overflow="fold")
    for row in ranked(rows, goal.direction)[:SHOWN]:
        table.add_row(*cells(row, keys))
    return table


def keys_of(rows: Sequence[Row]) -> list[str]:
    """Return what varies."""
    return list(dict.fromkeys(key for row in rows for key in row.params))


def columns(keys: Sequence[str], goal: Goal) -> list[str]:
    """Return the names of the leaderboard's columns, of what varies."""
    return ["trial", goal.objective, *keys, "time", "state"]


def cells(row: Row, keys: Sequence[str]) -> list[str]:
    """Return a row of the leaderboard."""
    outcome = row.outcome
    value = "-" if outcome.value is None else number(outcome.value)
    state = "reused" if outcome.reused else "done" if outcome.state == COMPLETE else outcome.state
    return [
        str(row.number),
        value,
        *(row.params.get(key, "-") if reads(outcome, key) else "-" for key in keys),
        f"{outcome.seconds:.1f}s",
        state,
    ]


def errors(rows: Sequence[Row]) -> list[str]:
    """Return a line for each failed trial."""
    return [f"trial {row.number}: {row.outcome.error}" for row in rows if row.outcome.error]


def reads(outcome: Outcome, override: str) -> bool:
    """Return whether a trial reads what an override, or its key, sets; yes where its settings were not read."""
    return outcome.net is None or is_read(override, outcome.net, str(outcome.dataset))


def command(winner: Row) -> str:
    """Return the command that makes a trial the project's own result: with all that its settings depend on.

    >>> from pathlib import Path
    >>> from pipeline.study.trial import Outcome
    >>> given = ("net=keras", "keras.units=[64,32]", "tracking.uri=null")
    >>> command(Row(0, {}, Outcome("complete", given)))
    "dvc exp run -S 'keras.units=[64,32]'"

    Of one that starts from earlier weights it is the command that only trains it again:

    >>> command(Row(0, {}, Outcome("complete", ("net=keras", "keras.warm_start=true"), warm_start=True)))
    'python -m pipeline.train hydra.mode=RUN net=keras keras.warm_start=true'
    """
    given = [text for text in winner.outcome.overrides if reads(winner.outcome, text)]
    told = [shlex.quote(text) for text in given if not _is_no_result(text)]
    if not winner.outcome.warm_start:
        return " ".join(["dvc exp run", *(f"-S {text}" for text in told)])
    net = [text for text in given if text.startswith("net=")]
    return " ".join(["python -m pipeline.train hydra.mode=RUN", *net, *told])


def told_command(winner: Row, quoted: str = "") -> str:
    """Return the command of the winner with what it does, the command between two of `quoted`."""
    does = "as the project's own result"
    if winner.outcome.warm_start:
        does = "once more (no stage can start from earlier weights)"
    return f"{does}: {quoted}{command(winner)}{quoted}"


def show_end(rows: Sequence[Row], goal: Goal, address: str | None) -> None:
    """Print the leaderboard, where the trials are compared, and the winner's command."""
    from rich.console import Console

    from pipeline.compare import width_of

    table = leaderboard(rows, goal)
    console = Console()
    if not console.is_terminal:  # a pipe: one line a trial
        console = Console(width=width_of(table))
    with console.capture() as shown:
        console.print(table)
    lines = [text.rstrip() for text in shown.get().splitlines()]
    console.file.write("\n".join(lines) + "\n")
    lines = errors(rows)[:SHOWN]
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more, in MLflow")
    n_pruned, n_failed = count(rows, PRUNED), count(rows, FAILED)
    if n_pruned or n_failed:
        lines.append(f"{len(rows)} trials, of which {n_pruned} pruned and {n_failed} failed")
    if address:
        lines.append(f"compared: {address}")
    winner = best(rows, goal.direction)
    if winner:
        which = f" (net={winner.outcome.net})" if "net" in keys_of(rows) else ""
        lines.append(f"the winner{which} {told_command(winner)}")
    for text in lines:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def check_failures(rows: Sequence[Row], max_rate: float) -> None:
    """Raise SweepError if too many trials have failed, or all."""
    failed = [row for row in rows if row.outcome.state == FAILED]
    if failed and len(failed) == len(rows):
        n_all = f"all {len(rows)} trials" if len(rows) > 1 else "the one trial"
        raise SweepError(f"{n_all} failed; the first, {failed[0].number}: {failed[0].outcome.error}")
    if failed and len(failed) / len(rows) > max_rate:
        raise SweepError(
            f"{len(failed)} of {len(rows)} trials failed, where max_failure_rate is {max_rate:g}; "
            f"the first, {failed[0].number}: {failed[0].outcome.error}"
        )


def line(row: Row, rows: Sequence[Row], goal: Goal) -> str:
    """Return a line for a trial that has ended, the last one of `rows`."""
    outcome = row.outcome
    state = "reused" if outcome.reused else "" if outcome.state == COMPLETE else outcome.state
    value = "" if outcome.value is None else f"{goal.objective} {number(outcome.value)}"
    params = " ".join(f"{key}={value}" for key, value in row.params.items() if reads(outcome, key))
    told = (f"trial {row.number} ({len(rows)}/{goal.n_trials})", state, outcome.error or value, params)
    return "  ".join(filter(None, (*told, _so_far(rows, goal))))


def _so_far(rows: Sequence[Row], goal: Goal) -> str:
    winner = best(rows, goal.direction)
    n_failed = count(rows, FAILED)
    value = winner.outcome.value if winner else None
    told = "" if winner is None or value is None else f"best {number(value)} (trial {winner.number})"
    return "  ".join(filter(None, (told, f"{n_failed} failed" if n_failed else "")))


def _is_no_result(override: str) -> bool:
    """Return whether an override changes nothing that a stage makes."""
    key = override.lstrip("+~").partition("=")[0]
    return key in NOT_RESULTS or key.startswith(tuple(name for name in NOT_RESULTS if name[-1] in "./"))
