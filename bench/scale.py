"""What grows with the number of runs: a trial's overhead in a long study; what commands cost in a full store.

BENCH_STORE names the store of many runs, an empty database like postgresql://…, instead of a SQLite file that is
removed again; so it can be measured again without being filled again. The store of one run is a SQLite file always.
"""

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from bench.filling import fill, keep_records, settings_of
from bench.measure import own_store, process, seconds
from bench.sweeps import ROOT, TRAIN, trials_of
from pipeline import compose, config, tracking, train
from pipeline.address import redact
from pipeline.config import Settings
from pipeline.lineage import inputs_of
from pipeline.tracking import ledger
from pipeline.tracking.records import Record

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

N_TRIALS, HUNDRED, EPOCHS = 1000, 100, 2
N_RUNS = 10_000
SPACE = ("scratch.learning_rate=tag(log, interval(1e-2, 1))", "scratch.n_hidden=interval(2, 30)")
STUDY = [*TRAIN, "-m", "hydra/sweeper=study", "net=scratch", f"scratch.epochs={EPOCHS}", *SPACE]
PATIENCE = 60.0  # seconds in which a run must reach the store
Figures = dict[str, dict[str, float]]


def study() -> Figures:
    """Return milliseconds of a trial by hundreds, in a study of N_TRIALS with two workers.

    `whole` is the time from a trial's claim to its worker's next one, `training` what of it the net took, by the
    times of its points; the overhead is the rest.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = ["hydra.sweeper.study_name=scale", f"hydra.sweeper.n_trials={N_TRIALS}", "hydra.sweeper.n_jobs=2"]
        process([*STUDY, *given], folder, {"PYTHONPATH": str(ROOT), **own_store(folder)})
        hundreds: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for trial, whole in _with_intervals(trials_of(folder, "scale")):
            record = Record(folder / "records" / trial.user_attrs["outcome"]["record_id"])
            hundreds[trial.user_attrs["slot"] // HUNDRED].append((1000 * whole, _training(record)))
    return {
        f"trials {HUNDRED * i} to {HUNDRED * (i + 1) - 1}": {
            "whole, ms": statistics.median(whole for whole, _ in found),
            "training, ms": statistics.median(trained for _, trained in found),
            "overhead, ms": statistics.median(whole - trained for whole, trained in found),
            "mean overhead, ms": statistics.mean(whole - trained for whole, trained in found),
        }
        for i, found in sorted(hundreds.items())
    }


def _with_intervals(trials: "list[FrozenTrial]") -> "list[tuple[FrozenTrial, float]]":
    """Return the trials that ended, each with the seconds until its worker claimed the next; no worker's last one."""
    by_worker: dict[int, list[tuple[float, FrozenTrial]]] = defaultdict(list)
    for trial in trials:
        if trial.datetime_start and "outcome" in trial.user_attrs:
            by_worker[trial.user_attrs["worker"]["pid"]].append((trial.datetime_start.timestamp(), trial))
    pairs = []
    for own in by_worker.values():
        own.sort(key=lambda one: one[0])
        pairs += [(trial, after - at) for (at, trial), (after, _) in pairwise(own)]
    return pairs


def _training(record: Record) -> float:
    """Return the milliseconds of a training: from its first epoch's end to the last one's, and an epoch more."""
    times = [points.time for points, _ in record.points() if points.step]
    return (times[-1] - times[0]) * EPOCHS / (EPOCHS - 1)


def store(n: int) -> Figures:
    """Return the seconds of commands, and of what in them asks the store, in a store of one run and of N_RUNS."""
    found: Figures = defaultdict(dict)
    for n_runs, named in ((1, None), (N_RUNS, os.environ.get("BENCH_STORE"))):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            own = own_store(folder, named)
            uri = own["MLFLOW_TRACKING_URI"]
            with mock.patch.dict(os.environ, own):
                fill(uri, n_runs)
                keep_records(folder / "records", uri, n_runs)
                for what, work in _works(folder, uri).items():
                    work()
                    figure = statistics.median(work() for _ in range(n))
                    found[what][f"{n_runs} in {uri.partition(':')[0]}, s"] = figure
    return dict(found)


def _works(folder: Path, uri: str) -> dict[str, Callable[[], float]]:
    """Return what is measured, by name: each returns its seconds."""
    environment = {"PYTHONPATH": str(ROOT), **own_store(folder, uri)}
    (folder / config.PARAMS_FILE).write_text(compose.run(ROOT / "conf"), encoding="utf-8")
    settings, records, python = settings_of(uri), folder / "records", [sys.executable, "-m"]
    resumed = [*STUDY, "hydra.sweeper.study_name=resumed"]
    process([*resumed, "hydra.sweeper.n_trials=5"], folder, environment)
    n_trials = iter(range(6, 1000))

    def resume() -> float:
        return process([*resumed, f"hydra.sweeper.n_trials={next(n_trials)}"], folder, environment)

    def go_on() -> float:
        begun = datetime.now()
        resume()
        claimed = trials_of(folder, "resumed")[-1].datetime_start
        assert claimed
        return (claimed - begun).total_seconds()

    def look() -> object:
        return ledger.lacking(redact(uri), records)

    return {
        "start of a run: until it trains": lambda: _start(settings)[0],
        "start of a run: until MLflow has it": lambda: _start(settings)[1],
        "compare: the command": lambda: process([*python, "pipeline.compare"], folder, environment),
        "compare: its table": lambda: seconds(lambda: tracking.runs(10, settings=settings)),
        "resume of a study: until its next trial begins": go_on,
        "resume of a study: the command, with a trial": resume,
        "sync: the command": lambda: process([*python, "pipeline.sync"], folder, environment),
        "sync: its look": lambda: seconds(look),
        "sync: its look without a ledger": lambda: _without_ledger(records, look),
    }


def _start(settings: Settings) -> tuple[float, float]:
    """Return the seconds from the start of a run until it may train, and until MLflow has it.

    Raises:
        RuntimeError: it has not got there in time.
    """
    data, md5 = train.data_of(settings)
    inputs = inputs_of(settings.scratch.dataset, data, md5)
    begun = time.perf_counter()
    with tracking.start_run(settings, "scratch", inputs) as run:
        ready = time.perf_counter() - begun
        while run.run_id is None and time.perf_counter() < begun + PATIENCE:
            time.sleep(0.002)
        there = time.perf_counter() - begun
    if run.run_id is None:
        raise RuntimeError(f"the run has not reached the store in {PATIENCE:.0f} s")
    return ready, there


def _without_ledger(records: Path, look: Callable[[], object]) -> float:
    for file in (records / ledger.FOLDER).iterdir():
        file.unlink()
    return seconds(look)
