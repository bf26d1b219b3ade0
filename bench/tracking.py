"""What tracking costs a training: the same training with and without, in turns, in one process.

The training's own time is taken with its record being written and the courier delivering it beside; what comes before
and after it is taken apart: the start of the run, what is written at its end, the wait until MLflow has all of it.
The first turn pays for imports and the new store, and is left out.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from bench.measure import alternate, median, ratio
from pipeline import compose, config, evaluate, prepared, tracking, train, trained
from pipeline.config import Settings
from pipeline.lineage import inputs_of

TRAININGS = {
    "scratch on synthetic": ["net=scratch"],
    "scratch on mnist": ["net=scratch", "scratch.dataset=mnist", "scratch.epochs=5", "scratch.n_hidden=128"],
    "keras on mnist": ["net=keras"],
}


@dataclass
class Bench:
    """One training, with and without a run around it."""

    settings: Settings
    folder: Path
    parts: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data, md5 = train.data_of(self.settings)
        self.inputs = inputs_of(self.settings.section(self.settings.net).dataset, self.data, md5)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts.setdefault(part, []).append(time.perf_counter() - start)

    def untracked(self) -> None:
        """Train."""
        train.fit(self.settings, self.data, lambda epoch, metrics: None)

    def tracked(self) -> None:
        """Train as a run: only the training itself counts as its time."""
        started = tracking.start_run(self.settings, self.settings.net, self.inputs)
        with self._timed("start_ms"):
            run = started.__enter__()
        with self._timed("training"):
            result, model = train.fit(self.settings, self.data, run.on_epoch_end)
        report = evaluate.run(result, self.data)
        with self._timed("record_ms"):
            trained.save(result, self.folder / "net")
            example = prepared.inputs(self.data["X_test"][:2])
            run.log_trained(result, self.folder / "net", self.settings, example=example, model=model)
            run.log_report(report.metrics, report.images, report.per_class)
        with self._timed("wait_ms"):
            started.__exit__(None, None, None)


def measure(overrides: list[str], n: int) -> dict[str, float]:
    """Return the medians of n turns: seconds of the training without tracking, its ratio with it, and the rest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PIPELINE_RECORDS"] = str(folder / "records")
        settings = config.parse(yaml.safe_load(compose.run(overrides=overrides)))
        settings = replace(settings, tracking=replace(settings.tracking, uri=f"sqlite:///{folder}/mlflow.db"))
        bench = Bench(settings, folder)
        bench.tracked()
        bench.parts.clear()
        times = alternate({"untracked": bench.untracked, "tracked": bench.tracked}, n)
    parts = zip(*bench.parts.values(), strict=True)
    times |= {"tracked": bench.parts.pop("training"), "with all": [sum(turn) for turn in parts]}
    rest = {part: 1000 * statistics.median(seconds) for part, seconds in bench.parts.items()}
    return {
        "epochs": settings.section(settings.net).epochs,
        "untracked_s": median(times, "untracked"),
        "tracked_ratio": ratio(times, "tracked", "untracked"),
        "with_all_ratio": ratio(times, "with all", "untracked"),
        **rest,
    }


def measure_all(n: int) -> Mapping[str, Mapping[str, float]]:
    """Return the figures of each of TRAININGS."""
    return {name: measure(overrides, n) for name, overrides in TRAININGS.items()}
