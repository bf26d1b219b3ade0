"""`python -m bench [PART…]`: the benchmarks, as a table and in data/reports/bench.json.

Without a part, all but those of scale, which take half an hour each. Each ratio is taken between works done in turns
in one go: the median of the turns' ratios; those of sweeps are of one sweep each. MNIST's CSVs must be in data/raw/
(`dvc repro fetch`). The machine should have nothing else to do.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import data, nets, scale, sweeps, tracking, whole
from pipeline.command import configure_logging
from pipeline.files import replacing

REPORT = Path("data/reports/bench.json")
PARTS: dict[str, Callable[[int], Mapping[str, Any]]] = {
    "start-up": whole.start_up,
    "csv": data.csv_to_arrays,
    "scratch": nets.scratch_steps,
    "keras": nets.keras_epochs,
    "tracking": tracking.measure_all,
    "tracking-first": tracking.first,
    "stages": whole.stages,
    "repro": whole.repro,
    "sweep-rates": lambda n: sweeps.rates(sweeps.Size()),
    "sweep-idle": lambda n: sweeps.idle(sweeps.Size()),
    "sweep-pruning": lambda n: sweeps.pruning(sweeps.Size()),
    "scale-study": lambda n: scale.study(),
    "scale-store": scale.store,
}


def table(part: str, figures: Mapping[str, Any]) -> Table:
    """Return the figures of a part: name and value, or a row for each of several with the same names."""
    rows = list(figures.values())
    if not isinstance(rows[0], Mapping):
        shown = Table(part, "")
        for name, value in figures.items():
            shown.add_row(name, f"{value:.3g}")
        return shown
    shown = Table(part, *rows[0])
    for name, row in figures.items():
        shown.add_row(name, *(f"{value:.3g}" for value in row.values()))
    return shown


def main() -> None:
    """Measure, print, and add to the report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("-n", type=int, default=5, help="turns (default 5)")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown or arguments.n < 1:
        parser.error(f"parts are {', '.join(PARTS)}, and n is at least 1, but got {unknown or arguments.n}")
    configure_logging()
    found = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else {}
    for part in arguments.parts or [part for part in PARTS if not part.startswith("scale")]:
        found[part] = PARTS[part](arguments.n)
        Console().print(table(part, found[part]))
        with replacing(REPORT) as new:
            new.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
