"""What tracking costs a training: the same training with and without, in turns, in one process.

Both do what `pipeline.train` does, in its order: the epochs, the files of the net, the figures and pictures of the
test rows. The epochs' own time is taken with the record being written and the courier delivering it beside; apart
from it the start of the run, what is written of the net and its figures, and the wait until MLflow has all of it. The
first turn pays for imports and the new store, and is left out. Beside them what MLflow's own client takes for the
curves alone, called as a script calls it at its end. What a user waits who trains once, the courier's start with it,
is measured by `first`: whole processes, each of one training, `python -m bench.tracking NAME HOW`.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest import mock

import yaml

from bench.measure import Seconds, alternate, median, own_store, process, ratio
from bench.sweeps import ROOT
from pipeline import compose, config, evaluate, prepared, tracking, train, trained
from pipeline.config import Settings
from pipeline.lineage import inputs_of
from pipeline.tracking.delivery import LARGEST_BATCH

HOW = ("alone", "tracked")
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
    parts: Seconds = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data, md5 = train.data_of(self.settings)
        self.inputs = inputs_of(self.settings.section(self.settings.net).dataset, self.data, md5)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts.setdefault(part, []).append(time.perf_counter() - start)

    def alone(self) -> None:
        """Do what `tracked` does but for the run."""
        with self._timed("alone"):
            result, _ = train.fit(self.settings, self.data, lambda epoch, metrics: None)
        trained.save(result, self.folder / "net")
        evaluate.run(result, self.data)

    def tracked(self) -> None:
        """Train as a run."""
        started = tracking.start_run(self.settings, self.settings.net, self.inputs)
        with self._timed("start"):
            run = started.__enter__()
        with self._timed("tracked"):
            result, model = train.fit(self.settings, self.data, run.on_epoch_end)
        trained.save(result, self.folder / "net")
        example = prepared.inputs(self.data["X_test"][:2])
        with self._timed("net"):
            run.log_trained(result, self.folder / "net", self.settings, example=example, model=model)
        report = evaluate.run(result, self.data)
        with self._timed("report"):
            run.log_report(report.metrics, report.images, report.per_class)
        with self._timed("wait"):
            started.__exit__(None, None, None)

    def plain(self, history: Mapping[str, list[float]]) -> None:
        """Log the curves of a training, and nothing else, by MLflow's own client in this process."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient(tracking.tracking_uri(self.settings))
        points = [Metric(name, value, 0, i + 1) for name, values in history.items() for i, value in enumerate(values)]
        with self._timed("plain"):
            run_id = client.create_run(tracking.open_store(self.settings)).info.run_id
            for first in range(0, len(points), LARGEST_BATCH):
                client.log_batch(run_id, points[first : first + LARGEST_BATCH])
            client.set_terminated(run_id)


def measure(overrides: list[str], n: int) -> dict[str, float]:
    """Return medians of n turns: seconds of the epochs and of all, their ratios with tracking, and its parts."""
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, own_store(Path(name))):
        bench = Bench(_settings(overrides), Path(name))
        bench.tracked()
        history = trained.load(Path(name) / "net").history
        bench.plain(history)
        bench.parts.clear()
        works = {"alone": bench.alone, "tracked": bench.tracked, "plain": lambda: bench.plain(history)}
        times = alternate(works, n)
    return {
        "epochs": bench.settings.section(bench.settings.net).epochs,
        "epochs_s": median(bench.parts, "alone"),
        "epochs_ratio": ratio(bench.parts, "tracked", "alone"),
        "whole_s": median(times, "alone"),
        "whole_ratio": ratio(times, "tracked", "alone"),
        **{f"{part}_ms": 1000 * median(bench.parts, part) for part in ("start", "net", "report", "wait", "plain")},
    }


def measure_all(n: int) -> Mapping[str, Mapping[str, float]]:
    """Return the figures of each of TRAININGS."""
    return {name: measure(overrides, n) for name, overrides in TRAININGS.items()}


def first(n: int) -> Mapping[str, Mapping[str, float]]:
    """Return for each of TRAININGS what a process takes that trains once in a store that is there, and is no more."""
    return {name: _first(name, n) for name in TRAININGS}


def _first(name: str, n: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.tracking", name]
        works = {how: partial(process, [*command, how], ROOT, own_store(Path(folder))) for how in HOW}
        works["tracked"]()  # makes the store
        times = alternate(works, n)
    return {
        "alone_s": median(times, "alone"),
        "tracked_ratio": ratio(times, "tracked", "alone"),
        "more_s": statistics.median(b - a for a, b in zip(times["alone"], times["tracked"], strict=True)),
    }


def _settings(overrides: list[str]) -> Settings:
    """Return the settings of a training whose store is the environment's."""
    settings = config.parse(yaml.safe_load(compose.run(ROOT / "conf", overrides)))
    return replace(settings, tracking=replace(settings.tracking, uri=None, server=False))


def main() -> None:
    """Train once, alone or tracked, as `pipeline.train` does."""
    name, how = sys.argv[1:]
    if how == "tracked":
        tracking.prepare()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(_settings(TRAININGS[name]), Path(folder))
        {"alone": bench.alone, "tracked": bench.tracked}[how]()


if __name__ == "__main__":
    main()
