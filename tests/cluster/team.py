"""A place in which commands run as a team's member has them: runs on a server, studies in PostgreSQL."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LEFT_SECONDS = 120.0  # for the courier to bring what is still on its way
DONE_SECONDS = 500.0
SMALL = ("net=scratch", "scratch.epochs=5", "synthetic.n_samples=300", "synthetic.n_train=200")
SPACE = ("scratch.learning_rate=tag(log, interval(1e-2, 1))", "scratch.n_hidden=interval(2, 12)")


@dataclass
class Team:
    """A folder, and the environment of its commands."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen:
        """Start `python -m` with these arguments in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess:
        """Return what `python -m` with these arguments says."""
        return self.end(self.start(*arguments, **variables), code)

    def end(self, process: subprocess.Popen, code: int = 0) -> subprocess.CompletedProcess:
        """Wait for a command, and return what it said."""
        try:
            out, err = process.communicate(timeout=DONE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a sweep's workers, too
            process.communicate()
            raise
        assert process.returncode == code, f"{out[-3000:]}\n{err[-3000:]}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def study(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess:
        """Return what a study of the small net says."""
        return self.run(*study(*arguments), code=code, **variables)


def study(*arguments: str) -> tuple[str, ...]:
    """Return the command of a study of the small net."""
    return ("pipeline.train", "-m", "hydra/sweeper=study", *SMALL, *arguments)


def counted(address: str, name: str) -> Counter:
    """Return how often each slot of a study in a database has a trial that counts and has ended."""
    return Counter(trial.user_attrs["slot"] for trial in _ended(address, name))


def states(address: str, name: str) -> Counter:
    """Return how many of the trials that `counted` counts have ended in which state."""
    return Counter(trial.state.name for trial in _ended(address, name))


def _ended(address: str, name: str) -> list:
    import optuna

    storage = optuna.storages.RDBStorage(address)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()
    return [trial for trial in trials if trial.state.is_finished() and "lost" not in trial.user_attrs]


def family(client, name: str, parent_id: str | None = None) -> tuple[list, dict[str, list[str]]]:
    """Return the parent runs of a sweep, and the statuses of their children by trial, once none is left running.

    Args:
        client: MLflow's, of the store.
        name: the sweep's.
        parent_id: of the parent run, where the store has several sweeps of that name.
    """
    (experiment,) = client.search_experiments(filter_string="name = 'neural-nets'")
    end = time.monotonic() + LEFT_SECONDS
    while True:
        parents = client.search_runs([experiment.experiment_id], f"tags.sweep = '{name}'")
        parents = [run for run in parents if "mlflow.parentRunId" not in run.data.tags]
        parents = [run for run in parents if parent_id in (None, run.info.run_id)]
        ids = {run.info.run_id for run in parents}
        runs = client.search_runs([experiment.experiment_id])
        parts = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]  # some without other tags yet
        if time.monotonic() > end or all(run.info.status != "RUNNING" for run in (*parents, *parts)):
            break
        time.sleep(0.3)
    children: dict[str, list[str]] = {}
    for run in parts:
        children.setdefault(run.data.tags["sweep.trial"], []).append(run.info.status)
    return parents, children
