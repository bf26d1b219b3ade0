"""`make experiments`: what `dvc exp show` has, with the figures that tell nets apart and the params that differ."""

import csv
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.command import command
from pipeline.config import NETS, PARAMS_FILE, flatten, read_yaml
from pipeline.errors import DataError
from pipeline.paths import REPORTS
from pipeline.progress import number

TITLES = {"test_accuracy": "acc.", "test_loss": "loss", "train_test_gap": "gap"}
FIGURES = {
    f"{REPORTS}/{net}_metrics.json:{name}": f"{net}\n{title}" for net in NETS for name, title in TITLES.items()
}


def run(rows: Sequence[Mapping[str, str]], params: Iterable[str]) -> Table:
    """Return the experiments as a table: test figures of both nets, then each of these params that differs.

    Args:
        rows: of `dvc exp show --csv`.
        params: their names.
    """
    differing = [name for name in params if len({row.get(name) for row in rows}) > 1]
    table = Table("experiment", *FIGURES.values(), *differing, box=box.SIMPLE)
    for row in rows:
        figures = [_figure(row.get(name, "")) for name in FIGURES]
        table.add_row(row["Experiment"] or row["rev"], *figures, *(row.get(name, "-") for name in differing))
    return table


def _figure(text: str) -> str:
    """Return a figure as people read it; DVC gives none, or a sign, where an experiment waits or has failed.

    >>> [_figure(text) for text in ("0.98114", "", "!")]
    ['0.9811', '-', '!']
    """
    try:
        return number(float(text))
    except ValueError:
        return text or "-"


@command
def main() -> None:
    """Print the experiments of the checked out commit."""
    done = subprocess.run(["dvc", "exp", "show", "--csv"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"dvc exp show: exit code {done.returncode}: {done.stderr.strip()}")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    Console().print(run(rows, flatten(read_yaml(PARAMS_FILE))))


if __name__ == "__main__":
    main()
