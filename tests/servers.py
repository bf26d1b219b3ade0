"""A real tracking server for tests, in a process group of its own, which can be killed at any moment."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

READY_SECONDS = 90
LOWEST, N_PORTS = 20_000, 200  # for each of pytest's workers; the kernel gives connections those from 32,768 on
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = itertools.cycle(range(LOWEST + _worker * N_PORTS, LOWEST + (_worker + 1) * N_PORTS))


def _is_free(port: int) -> bool:
    """Return whether nobody listens on a port, nor has just done so."""
    with socket.socket() as tried, contextlib.suppress(OSError):
        tried.bind(("127.0.0.1", port))
        return True
    return False


class Server:
    """`mlflow server` on 127.0.0.1, on a SQLite store that outlives it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.port = next(filter(_is_free, PORTS))
        self.folder = folder
        self.environment = environment | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONWARNINGS": "ignore",
        }
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")),
            *("--workers", "1"),
        ]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready: {(self.folder / 'server.log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill it and its helpers, as a crash does."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            while self._listens():  # on a busy machine its helpers die a little later
                time.sleep(0.01)

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
