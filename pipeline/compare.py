"""`python -m pipeline.compare [RUN_ID…]`: tracked runs side by side in the terminal, the newest by default."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from pipeline.command import parsing_command
from pipeline.progress import number
from pipeline.tracking.pages import shown_at
from pipeline.tracking.table import own_settings, runs

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 10
SHORT_ID = 8  # of 32 characters: enough to tell thousands of runs apart
LONGEST_WORD = (20, 12, 6)  # characters that are not broken, where the width allows it
STATUS = {"FINISHED": "done"}
HEADERS = {  # where columns must be narrow
    "val_loss": "val\nloss",
    "val_accuracy": "val\nacc.",
    "test_loss": "test\nloss",
    "test_accuracy": "test\nacc.",
}
NONE_YET = (
    "no runs yet: `make repro` trains both nets; `python -m pipeline.train net=keras keras.epochs=1` trains one"
)


def run(table: "pd.DataFrame", width: int | None = None) -> Table:
    """Return runs as a table for the terminal: a column for each param that differs, or one for all of them.

    Args:
        table: what `tracking.runs` gives.
        width: characters; where the params' columns do not fit, they share one. None: as wide as need be.
    """
    params = {name: [_text(value) for value in table[name]] for name in differing(table)}
    if width is None:
        return _table(table, {name: (texts, False) for name, texts in params.items()}, {})
    wide = _table(table, {name: (texts, False) for name, texts in params.items()}, HEADERS)
    if width_of(wide) <= width:
        return wide
    joined = [
        " ".join(f"{name}={text}" for name, text in zip(params, texts, strict=True) if text != "-")
        for texts in zip(*params.values(), strict=True)
    ]
    one = {"params that differ": (joined, True)} if params else {}
    for longest in LONGEST_WORD:
        shown = _table(table, one, HEADERS, longest)
        if sum(column.min_width or 0 for column in shown.columns) + 2 * len(shown.columns) <= width:
            break
    return shown


def differing(table: "pd.DataFrame") -> list[str]:
    """Return the params that have more than one value among the runs that have them."""
    return [name for name in table.attrs["params"] if table[name].map(str)[table[name].notna()].nunique() > 1]


def width_of(table: Table) -> int:
    """Return the number of characters that a table takes where nothing is wrapped."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def _table(
    table: "pd.DataFrame",
    params: dict[str, tuple[list[str], bool]],
    headers: Mapping[str, str],
    longest_word: int = LONGEST_WORD[0],
) -> Table:
    """Return the table with these columns for the params: their texts, and whether they may be wrapped."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    metrics = table.attrs["metrics"]
    columns: dict[str, tuple[list[str], bool]] = {
        "run": ([run_id[:SHORT_ID] for run_id in table.index], False),
        "name": (list(table["name"]), True),
        "status": ([STATUS.get(status, status.lower()) for status in table["status"]], False),
        **params,
        **{name: ([_metric(value) for value in table[name]], False) for name in HEADERS if name in metrics},
        "time": ([_duration(seconds) for seconds in table["seconds"]], False),
    }
    for name, (texts, may_wrap) in columns.items():
        header = headers.get(name, name)
        words = [word for text in [header, *texts] for word in (text.split() if may_wrap else text.split("\n"))]
        shown.add_column(
            header,
            justify="right" if name in HEADERS or name == "time" else "left",
            no_wrap=not may_wrap,
            overflow="fold",
            min_width=min(max(map(len, words)), longest_word),
        )
    for row in zip(*(texts for texts, _ in columns.values()), strict=True):
        shown.add_row(*row)
    return shown


def _text(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metric(value: float) -> str:
    return "-" if value != value else number(value)  # noqa: PLR0124 – only NaN differs from itself


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(2.44), _duration(65.0), _duration(float("nan"))
    ('2.4s', '1m05s', '-')
    """
    if seconds != seconds:  # noqa: PLR0124
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"


@parsing_command
def main() -> None:
    """Print the table of the given runs and where MLflow shows them, or that of the newest runs."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("run_ids", nargs="*", metavar="RUN_ID", help="or its beginning; none: the newest runs")
    run_ids = parser.parse_args().run_ids
    settings = own_settings()
    table = runs(NEWEST, settings=settings, run_ids=run_ids)
    if table.empty:
        Console(soft_wrap=True).print(NONE_YET, highlight=False)
        return
    console = Console()
    shown = run(table, console.width if console.is_terminal else None)
    if not console.is_terminal:  # a pipe: one line a run
        console = Console(width=width_of(shown))
    console.print(shown)
    pages: dict[str, list[str]] = {}  # by experiment
    for run_id, experiment_id in zip(table.index, table.attrs["experiment_ids"], strict=True):
        pages.setdefault(experiment_id, []).append(run_id)
    for experiment_id, ids in pages.items() if run_ids else ():
        console.print(f"\n{shown_at(settings, ids, experiment_id)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
