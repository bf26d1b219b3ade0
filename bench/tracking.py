"""`python -m bench.tracking`: what tracking costs a training, beside the same training untracked.

Tracked and untracked trainings alternate in one process, on a store in a temporary folder; medians of the pairs.
Both train and evaluate; the tracked one does besides all that `pipeline.train` does: lineage, datasets, live points,
files, the model, metrics and pictures. Imports are left out, as the first training of the process pays for them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from pipeline import cache, compose, config, dataset, evaluate, tracking, train, trained
from pipeline.command import configure_logging
from pipeline.config import Settings
from pipeline.files import Arrays, replacing
from pipeline.lineage import Inputs, inputs_of

REPORT = Path("data/reports/bench_tracking.json")
LONG = 500  # epochs of the lesson's history


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def untracked(settings: Settings, data: Arrays) -> None:
    """Train and evaluate."""
    result, _ = train.fit(settings, data, lambda epoch, metrics: None)
    evaluate.run(result, data)


def tracked(settings: Settings, data: Arrays, inputs: Inputs) -> None:
    """Train and evaluate, with everything that is tracked."""
    with tracking.start_run(settings, settings.net, inputs) as run, tempfile.TemporaryDirectory() as folder:
        result, model = train.fit(settings, data, run.on_epoch_end)
        trained.save(result, Path(folder, "net"))
        run.log_trained(result, Path(folder, "net"), settings, example=data["X_test"][:2], model=model)
        report = evaluate.run(result, data)
        run.log_report(report.flat_metrics(), report.images)


def long_history(settings: Settings, inputs: Inputs) -> float:
    """Return the seconds that the points of LONG epochs take, handed over at once: nothing to hide behind."""
    point = {"loss": 0.5, "accuracy": 0.5, "val_loss": 0.5, "val_accuracy": 0.5}
    with tracking.start_run(settings, settings.net, inputs) as run:

        def hand_over() -> None:
            for epoch in range(LONG):
                run.on_epoch_end(epoch, point)
            run.flush()

        return seconds(hand_over)


def measure(overrides: list[str], n_pairs: int) -> dict[str, float]:
    """Return the medians for one net: seconds of a training, of tracking it, and tracking's shares."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.parse(yaml.safe_load(compose.run(overrides=overrides)))
        uri = f"sqlite:///{folder}/mlflow.db"
        settings = replace(settings, tracking=replace(settings.tracking, uri=uri))
        section = settings.section(settings.net)
        data = dataset.make(settings, section.dataset)
        inputs = inputs_of(section.dataset, data, cache.arrays_md5(data))
        tracked(settings, data, inputs)  # pays for imports and the new store
        pairs = [
            (seconds(lambda: untracked(settings, data)), seconds(lambda: tracked(settings, data, inputs)))
            for _ in range(n_pairs)
        ]
        points = statistics.median(long_history(settings, inputs) for _ in range(n_pairs))
    plain = statistics.median(pair[0] for pair in pairs)
    cost = statistics.median(pair[1] - pair[0] for pair in pairs)
    return {
        "epochs": section.epochs,
        "untracked_seconds": plain,
        "tracking_seconds": cost,
        "tracking_share": cost / plain,
        "long_history_seconds": points,
        "long_training_share": (cost + points) / (plain * LONG / section.epochs),
    }


def main() -> None:
    """Measure both nets; print a table, and write it to REPORT."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracking", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of trainings (default 5)")
    n_pairs = parser.parse_args().pairs
    configure_logging()
    figures = {
        "keras on mnist": measure(["net=keras"], n_pairs),
        "scratch on mnist": measure(
            ["net=scratch", "scratch.dataset=mnist", "scratch.epochs=5", "scratch.n_hidden=128"], n_pairs
        ),
        "scratch on synthetic": measure(["net=scratch"], n_pairs),
    }
    table = Table(
        "training", "epochs", "untracked s", "tracking s", "share", f"{LONG} points s", f"share, {LONG} epochs"
    )
    for name, row in figures.items():
        cells = (f"{row[key]:.3f}" for key in list(row)[1:])
        table.add_row(name, str(row["epochs"]), *cells)
    Console().print(table)
    with replacing(REPORT) as new:
        new.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
