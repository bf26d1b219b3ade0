"""`python -m pipeline.summary`: the results of the last `dvc repro` as a table, and where to look next."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.command import command
from pipeline.config import NETS, PARAMS_FILE, load_params
from pipeline.paths import REPORTS, RUNS
from pipeline.progress import number

COLUMNS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "test_f1": "test F1",
    "train_test_gap": "train − test",
}
NEXT = """
dvc metrics show                                    every figure, by class too
dvc plots show                                      learning curves and confusion matrices, as a page
make ui                                             all runs, in MLflow
python -m pipeline.train net=keras keras.units=256  one more run, with other settings
pictures: {pictures}/"""


def run(metrics: dict[str, dict[str, float]], datasets: dict[str, str]) -> Table:
    """Return the table of the figures by net."""
    table = Table("net", "dataset", *COLUMNS.values())
    for net, figures in metrics.items():
        table.add_row(net, datasets[net], *(number(figures[name]) for name in COLUMNS))
    return table


def _shown_at(digests: list[str]) -> str | None:
    from pipeline.tracking import page_of_weights

    return page_of_weights(load_params(), digests)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `dvc repro` makes it")
    return json.loads(path.read_text(encoding="utf-8"))


@command
def main() -> None:
    """Print the table and the next commands."""
    metrics = {net: _read(REPORTS / f"{net}_metrics.json") for net in NETS}
    described = {net: _read(RUNS / net / "net.json") for net in metrics}
    console = Console()
    console.print(run(metrics, {net: one["dataset"] for net, one in described.items()}))
    address = _shown_at([one["weights_sha256"] for one in described.values()]) if PARAMS_FILE.is_file() else None
    if address:
        console.print(f"\nthese runs in MLflow: {address}", highlight=False, soft_wrap=True)
    console.print(NEXT.format(pictures=REPORTS / "pictures"), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
