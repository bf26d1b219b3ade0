"""Timing: works in turns, so that what disturbs the machine disturbs all of them; whole processes and their peaks."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Process:
    """What a process has used.

    Attributes:
        seconds: from start to end.
        peak_mb: the largest resident set, in 10⁶ bytes, of itself or one of its children.
    """

    seconds: float
    peak_mb: float


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], object]], n: int) -> Seconds:
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


def process(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> Process:
    """Return what a command uses; its output is kept back.

    Raises:
        RuntimeError: it fails; holds the end of its output.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}\n{output.decode()[-2000:]}")
    return Process(took, usage.ru_maxrss * 1024 / 1e6)
