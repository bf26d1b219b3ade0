"""Workers of a study as tasks of a Ray cluster."""

import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import lineage
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.study import signature
from pipeline.study.on_ray import check_same, cluster, is_up, one_line_of
from pipeline.study.worker import ONE_THREAD
from pipeline.study.workers import IS_WORKER, Death
from pipeline.tracking.store import ON_NODE

TELL_SECONDS = 20.0  # of waiting for a free processor, before it is said
END_SECONDS = 60.0  # for interrupted trainings to give their trials back
POLL_SECONDS = 0.3
REFUSED = 3  # exit code of a worker that was not started

log = logging.getLogger(__name__)


@dataclass
class _Task:
    """A worker as this process sees it: its name, the stream of what it says, its node's address once it has one."""

    name: str
    stream: Any
    node: str = ""
    code: int | None = None


@dataclass
class Tasks:
    """Workers as tasks of a Ray cluster, one processor each; one whose node has died is replaced.

    Attributes:
        n_jobs: how many.
        arguments: the command line of the study.
    """

    n_jobs: int
    arguments: Sequence[str]
    _wanted: dict[str, str] = field(default_factory=signature.checkout)  # now: what is edited later is no trial's
    _tasks: list[_Task] = field(default_factory=list)
    _deaths: list[Death] = field(default_factory=list)
    _started: float = 0.0

    def start(self) -> None:
        """Let them train, as soon as the cluster has a processor for each."""
        self._started = time.monotonic()
        self._tasks = [self._begin() for _ in range(self.n_jobs)]

    def _begin(self) -> _Task:
        import ray

        name = f"ray {uuid.uuid4().hex}"
        task = ray.remote(_work).options(num_cpus=1, max_retries=0, num_returns="streaming")
        variables = {**ONE_THREAD, IS_WORKER: "1", ON_NODE: name}
        return _Task(name, task.remote(list(self.arguments), variables, self._wanted))

    def deaths(self) -> list[Death]:
        """Return the deaths since the last call; log what the workers have said."""
        for i, task in enumerate(self._tasks):
            if self._hear(task):
                self._tasks[i] = self._begin()
        waiting = sum(not task.node for task in self._tasks)
        if waiting and self._started and time.monotonic() > self._started + TELL_SECONDS:
            self._started = 0.0
            log.info("%d of %d workers wait for a free processor of the cluster", waiting, self.n_jobs)
        told, self._deaths = self._deaths, []
        return told

    def _hear(self, task: _Task) -> bool:
        """Take what a worker has said since; return whether another one is to take its place."""
        import ray

        while task.code is None and ray.wait([task.stream], timeout=0, fetch_local=False)[0]:
            try:
                self._take(task, ray.get(next(task.stream)))
            except (ray.exceptions.RayError, StopIteration) as error:
                is_gone = isinstance(error, ray.exceptions.NodeDiedError)
                if is_gone or (task.node and not is_up(task.node)):
                    told = (
                        f"node {task.node} has died; another worker takes that one's place as soon as there is room"
                    )
                    self._deaths.append(Death(told, task.name))
                    return True
                task.code = REFUSED
                told = f"a worker on {task.node} has died ({one_line_of(error)}); the others go on"
                self._deaths.append(Death(told, task.name))
        return False

    def _take(self, task: _Task, said: str | int) -> None:
        if isinstance(said, int):
            task.code = said
            if said:
                told = f"a worker on {task.node} has died (exit code {said}); the others go on"
                self._deaths.append(Death(told, task.name))
        elif not task.node:
            task.node = said
        else:
            log.warning("%s: %s", task.node, said)

    def is_any_left(self) -> bool:
        """Return whether any still works, or waits for a processor although none has found all trained."""
        is_done = any(task.code == 0 for task in self._tasks)
        return any(task.code is None and (task.node or not is_done) for task in self._tasks)

    def end(self) -> None:
        """Interrupt those that still work, and wait until they have given their trials back."""
        import ray

        for task in self._tasks:
            if task.code is None:
                ray.cancel(task.stream)
        end = time.monotonic() + END_SECONDS
        while any(task.code is None and not self._hear(task) for task in self._tasks) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)


def _work(arguments: list[str], variables: dict[str, str], wanted: dict[str, str]) -> Iterator[str | int]:
    """On a node: do a study's command as a worker; yield the node's address, each line of stderr, the exit code."""
    import ray

    node = ray.util.get_node_ip_address()
    yield node
    try:
        check_same(node, str(lineage.ROOT), signature.checkout(), wanted)  # a node may have come later
    except SettingsError as error:
        yield str(error)
        yield REFUSED
        return
    environment = os.environ | variables | {"PYTHONPATH": str(lineage.ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *arguments],
        cwd=lineage.ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
        yield from _lines(process)
        yield process.wait()
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # at which the worker ends, if it still lives
        process.wait()


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield the lines of a process's stderr; waits such that Ray can interrupt it."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stderr or ():
            found.put(line.rstrip("\n"))
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty):
            line = found.get(timeout=POLL_SECONDS)
            if line is None:
                return
            if line:
                yield line


@contextlib.contextmanager
def tasks(settings: Settings, address: str, n_jobs: int) -> Iterator[Tasks]:
    """Yield workers on the cluster at an address, and end them.

    Raises:
        SettingsError: see `cluster`.
    """
    with cluster(settings, {"address": address}, {}):
        workers = Tasks(n_jobs, sys.argv[1:])
        try:
            yield workers
        finally:
            workers.end()
