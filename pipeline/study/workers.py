"""Who trains for a study beside the process that shows it: processes of this machine; a cluster's are in on_ray."""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.study.worker import ONE_THREAD

IS_WORKER = "PIPELINE_STUDY_WORKER"  # in the environment of a process that another one has started
RENEWED = "PIPELINE_STUDY_RENEWED"  # in that of one that has taken the place of an earlier worker
STATM = Path("/proc/self/statm")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Death:
    """A worker that has died.

    Attributes:
        told: in a line.
        name: by which its claims are known, where nobody else can tell that it is dead.
    """

    told: str
    name: str | None = None


class Workers(Protocol):
    """Workers of a study, which take part as soon as they are told to, and end by themselves when nothing is left."""

    def start(self) -> None:
        """Let them train."""

    def deaths(self) -> list[Death]:
        """Return the deaths since the last call."""

    def is_any_left(self) -> bool:
        """Return whether any still works."""


class Processes:
    """Processes of the same command on this machine, which load what they need until they are told to train."""

    def __init__(self, n_jobs: int) -> None:
        command = [sys.executable, "-m", "pipeline.train", *sys.argv[1:]]
        environment = os.environ | ONE_THREAD | {IS_WORKER: "1"}
        self._processes = [
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True) for _ in range(n_jobs)
        ]
        self._dead: set[int] = set()

    def start(self) -> None:
        """Let them train."""
        for process in self._processes:
            with contextlib.suppress(OSError):  # it has died: the others go on
                process.stdin.write("go\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]

    def deaths(self) -> list[Death]:
        """Return the deaths since the last call; what such a one was training, the others will train again."""
        new = [process for process in self._processes if process.poll() and process.pid not in self._dead]
        self._dead |= {process.pid for process in new}
        return [Death(f"a worker has died (exit code {process.returncode}); the others go on") for process in new]

    def is_any_left(self) -> bool:
        """Return whether any still works."""
        return any(process.poll() is None for process in self._processes)

    def end(self) -> None:
        """Interrupt those that still work, and wait for them."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # what a worker ends at, if it still lives
        for process in self._processes:
            process.wait()


def renew_if_grown(most_mb: int | None) -> None:
    """Put a fresh process in the place of this worker, under the same id, if it holds more memory than that.

    XLA keeps the program of each training that it has compiled, so that a worker grows with every trial.

    Args:
        most_mb: in megabytes; None: whatever it holds.
    """
    held_mb = _memory_mb()
    if most_mb is not None and held_mb > most_mb:
        log.warning("a worker holds %d MB, more than hydra.sweeper.max_worker_memory_mb: a new one goes on", held_mb)
        command = [sys.executable, "-m", "pipeline.train", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {RENEWED: "1"})


def _memory_mb() -> float:
    """Return what this process holds in memory; 0 where the system does not tell it as Linux does."""
    if not STATM.exists():
        return 0.0
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def processes(n_jobs: int) -> Iterator[Processes | None]:
    """Yield workers of this machine; None for one job, which this process does itself."""
    workers = Processes(n_jobs) if n_jobs > 1 else None
    try:
        yield workers
    finally:
        if workers:
            workers.end()
