"""Sweeps of the Keras net on MNIST: how many trials a minute, how idle the workers are, what pruning saves.

One sweep of each kind is measured, but of pruning one a seed: a figure has the noise of one measurement.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import own_store, process

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, "-m", "pipeline.train"]
RATES = "keras.learning_rate=tag(log, interval(1e-4, 1e-2))"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    trials: int = 16
    epochs: int = 5
    seeds: int = 3


@contextmanager
def place() -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a folder to sweep in, with the raw CSVs of this checkout, and an environment with a store of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        (folder / "data/raw").symlink_to(ROOT / "data/raw")
        yield folder, {"PYTHONPATH": str(ROOT), **own_store(folder)}


def rates(size: Size) -> dict[str, float]:
    """Return trials a minute: one process a trial, and studies with one worker and with two."""
    each = [*TRAIN, "net=keras", f"keras.epochs={size.epochs}"]
    found: dict[str, float] = {}
    with place() as (folder, env):
        process([*each, "keras.epochs=1"], folder, env)  # makes the store
        plain = [[*each, f"keras.learning_rate={(i + 1) / 10_000}"] for i in range(size.trials)]
        took = sum(process(command, folder, env) for command in plain)
        found["a process a trial"] = 60 * size.trials / took
        for n_jobs in (1, 2):
            took = study(
                folder, env, f"rate{n_jobs}", size, f"hydra.sweeper.n_jobs={n_jobs}", f"keras.epochs={size.epochs}"
            )
            found[f"study, {n_jobs} worker{'s' * (n_jobs > 1)}"] = 60 * size.trials / took
    first = found["a process a trial"]
    return found | {f"{name} / a process a trial": rate / first for name, rate in list(found.items())[1:]}


def idle(size: Size) -> dict[str, float]:
    """Return the share of their time that two workers are idle, with trials of one epoch to twice as many as usual.

    `at the end` is the part of it after the last trial has been claimed: there is nothing left to take.
    """
    with place() as (folder, env):
        unequal = f"keras.epochs=range(1, {2 * size.epochs})"
        study(folder, env, "idle", size, "hydra.sweeper.n_jobs=2", unequal)
        trials = trials_of(folder, "idle")
    begun = min(trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    ended = max(trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete)
    last_claim = max(trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    whole = 2 * (ended - begun)
    busy = sum(trial.duration.total_seconds() for trial in trials if trial.duration)
    last = {trial.user_attrs["worker"]["pid"]: 0.0 for trial in trials}
    for trial in trials:
        pid = trial.user_attrs["worker"]["pid"]
        last[pid] = max(last[pid], trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0)
    tail = sum(ended - max(end, last_claim) for end in last.values())
    return {"idle": 1 - busy / whole, "of it at the end": tail / whole}


def pruning(size: Size) -> dict[str, float]:
    """Return, over the seeds, the seconds until the same best val_accuracy without pruning and with it."""
    times: dict[str, list[float]] = {"none": [], "median": []}
    with place() as (folder, env):
        for seed in range(size.seeds):
            found = {}
            for pruner in times:
                name = f"{pruner}{seed}"
                given = (
                    "objective=val_accuracy",
                    f"hydra.sweeper.pruner.name={pruner}",
                    f"keras.epochs={2 * size.epochs}",
                )
                study(folder, env, name, size, *given, f"hydra.sweeper.sampler.seed={seed}")
                found[pruner] = trials_of(folder, name)
            target = min(
                max(trial.value or 0.0 for trial in trials if is_complete(trial)) for trials in found.values()
            )
            for pruner, trials in found.items():
                times[pruner].append(seconds_to(target, trials))
    told = {f"{pruner}, s": statistics.median(seconds) for pruner, seconds in times.items()}
    ratios = [a / b for a, b in zip(times["none"], times["median"], strict=True)]
    return told | {"none / median": statistics.median(ratios), "worst seed": min(ratios), "best seed": max(ratios)}


def study(folder: Path, env: dict[str, str], name: str, size: Size, *overrides: str) -> float:
    """Run a study with a random sampler, and return its seconds."""
    given = [f"hydra.sweeper.study_name={name}", f"hydra.sweeper.n_trials={size.trials}"]
    random = ["hydra/sweeper=study", "hydra.sweeper.sampler.name=random", "net=keras", RATES]
    return process([*TRAIN, "-m", *random, *given, *overrides], folder, env)


def trials_of(folder: Path, name: str) -> "list[FrozenTrial]":
    """Return the trials of a study, as Optuna has them."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / f"studies/{name}.journal")))
    return storage.get_all_trials(storage.get_study_id_from_name(name))


def is_complete(trial: "FrozenTrial") -> bool:
    """Return whether a trial has trained to its end."""
    return bool(trial.state.name == "COMPLETE")


def seconds_to(target: float, trials: "list[FrozenTrial]") -> float:
    """Return the seconds from a study's first claim to the end of the first trial that is as good as the target."""
    begun = min(trial.datetime_start for trial in trials if trial.datetime_start)
    good = [trial for trial in trials if is_complete(trial) and (trial.value or 0.0) >= target]
    return min((trial.datetime_complete - begun).total_seconds() for trial in good if trial.datetime_complete)
