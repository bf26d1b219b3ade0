"""A Ray cluster whose nodes are machines as far as one machine can be several.

Each node has an address of its own (127.0.0.2, ...), its own checkout of the project, without data, and its own
folder for what Ray writes. It dies as a machine does: with all that it has started, at once.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from services import READY_SECONDS, free_port

MARK = "PIPELINE_TEST_NODE"  # in the environment of all that a node has started: its folder
SHORT = Path("/dev/shm")


class Node:
    """`ray start` with one processor."""

    def __init__(self, project: Path, environment: dict[str, str], number: int, head: "Node | None" = None) -> None:
        self.project = project
        self.host = f"127.0.0.{number}"  # Ray takes 127.0.0.1 for "this machine", and puts its own address there
        self.port = head.port if head else free_port()
        self.head = head
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir=SHORT if SHORT.is_dir() else None))
        self.environment = environment | {
            "PYTHONPATH": str(project),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # where other work has the memory, it would kill trainings
            MARK: str(self.folder),
        }
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"{(self.head or self).host}:{self.port}"

    @property
    def records(self) -> Path:
        return self.project / "records"

    def start(self) -> None:
        """Start it, and return when it is part of the cluster; a second time where Ray's own 30 s were too few."""
        try:
            self._start()
        except AssertionError:
            self._start()

    def _start(self) -> None:
        ports = (f"--port={self.port}", f"--ray-client-server-port={free_port()}")
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"),
            *(f"--node-ip-address={self.host}", f"--temp-dir={self.folder}", "--object-store-memory=100000000"),
            *([f"--address={self.address}"] if self.head else ["--head", *ports, "--include-dashboard=false"]),
        ]
        log = self.folder / "start.log"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        end = time.monotonic() + READY_SECONDS
        while "Ray runtime started" not in log.read_text():
            if time.monotonic() > end or self.process.poll() is not None:
                told = log.read_text()[-3000:]
                self.kill()
                raise AssertionError(f"the node is not up: {told}")
            time.sleep(0.1)

    def freeze(self) -> None:
        """Stop all that it has started, as where the network is gone: it answers no more, and is not yet missed."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill all that it has started, wherever that has got to; `ray stop` would end every Ray of this machine."""
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process:
                self.process.poll()
        if self.process:
            self.process.wait()
            self.process = None

    def _pids(self) -> list[int]:
        """Return its processes that live; of a dead one that nobody has reaped the environment is empty."""
        mark = f"{MARK}={self.folder}".encode()
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return found

    def remove(self) -> None:
        """Kill it, and remove what Ray has written."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
