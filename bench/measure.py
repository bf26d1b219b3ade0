"""Timing: works in turns, so that what disturbs the machine disturbs all of them; and whole processes."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

Seconds = dict[str, list[float]]


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: Mapping[str, Callable[[], object]], n: int) -> Seconds:
    """Return the times of each of several works, done in turn, n times over."""
    times: Seconds = {name: [] for name in works}
    for _ in range(n):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def median(times: Seconds, name: str) -> float:
    """Return the median time of one work, in seconds."""
    return statistics.median(times[name])


def ratio(times: Seconds, name: str, other: str) -> float:
    """Return the median of the ratios of two works that were done in the same turn."""
    return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))


def process(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> float:
    """Return the seconds that a command takes; its output is kept back.

    Raises:
        RuntimeError: it fails; holds the end of its output.
    """
    return seconds(lambda: output(command, folder, env))


def output(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> str:
    """Return what a command writes to stdout.

    Raises:
        RuntimeError: it fails; holds the end of its output.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # pipes the courier would hold open
        done = subprocess.run(command, cwd=folder, env=os.environ | (env or {}), stdout=out, stderr=err, check=False)
        said, told = _text(out), _text(err)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{(said + told)[-2000:]}")
    return said


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def own_store(folder: Path, uri: str | None = None) -> dict[str, str]:
    """Return variables for commands whose runs and records are to stay in a folder, or the runs at an address."""
    return {
        "MLFLOW_TRACKING_URI": uri or f"sqlite:///{folder}/mlflow.db",
        "PIPELINE_RECORDS": str(folder / "records"),
    }
