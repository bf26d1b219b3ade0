"""`make server`: it asks for the password that it has drawn, keeps its runs, and ends whole."""

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trainer
from services import HOST, free_port, status
from tracked import wait_until
from whole import assert_whole

from pipeline import ui

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # importing mlflow.pyfunc


class Started:
    """The command, running in a folder; its lines are read as they come."""

    def __init__(self, environment: dict[str, str], port: int) -> None:
        self.port = port
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.server", str(port)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Return when it serves."""
        wait_until(lambda: self._says("Ctrl-C ends it") or self.process.poll() is not None, ui.START_SECONDS)
        assert self.process.poll() is None, self.lines

    def _says(self, text: str) -> bool:
        return any(line.startswith(text) for line in self.lines)

    def end(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(60)
        self._reader.join()
        self.process.stderr.close()
        return code


@pytest.fixture
def start(environment, tmp_path):
    """Return a function that starts the command; what still runs is killed."""
    started: list[Started] = []

    def run(**variables: str) -> Started:
        started.append(Started(environment | {"DVC_ROOT": str(tmp_path), **variables}, free_port()))
        return started[-1]

    yield run
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


@pytest.mark.parametrize(
    "on_postgres", [pytest.param(False, id="sqlite", marks=pytest.mark.short), pytest.param(True, id="postgresql")]
)
def test_its_runs_need_its_password_and_are_there_after_a_restart(
    start, on_postgres, environment, tmp_path, monkeypatch, own_tracking, request
):
    import mlflow

    more = {}
    if on_postgres:
        more = {"MLFLOW_BACKEND_STORE_URI": request.getfixturevalue("database")}
        more |= request.getfixturevalue("postgres").secret
    server = start(**more)
    server.wait()
    password = (tmp_path / "server/password").read_text().strip()
    kept = {
        name: stat.S_IMODE((tmp_path / "server" / name).stat().st_mode) for name in ("password", "key", "auth.ini")
    }
    assert kept == dict.fromkeys(kept, 0o600)
    assert stat.S_IMODE((tmp_path / "server").stat().st_mode) == 0o700
    told = "".join(server.lines)
    assert password not in told
    variables = dict(re.findall(r"(MLFLOW_TRACKING_\w+)=(\S+?)[ ;]", told.replace('"$(cat ', "").replace(')"', "")))
    assert Path(variables.pop("MLFLOW_TRACKING_PASSWORD")).read_text().strip() == password
    variables["MLFLOW_TRACKING_PASSWORD"] = password
    assert status(server, auth=f"admin:{password}") == 200
    assert status(server, auth=None) == 401
    assert status(server, auth=f"admin:{password}", host="evil.example.com") == 403
    records = {"PIPELINE_RECORDS": str(tmp_path / "records"), "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
    uri = variables["MLFLOW_TRACKING_URI"]
    said, log = trainer.finish(trainer.start(environment | variables | records, uri=uri, epochs=20))
    assert log == []
    assert server.end() == 0
    assert server.lines[-1] == "ended\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)

    again = start(**more)
    again.wait()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(f"http://{HOST}:{again.port}")
    assert_whole(client, tmp_path / "records", said["record_id"])
    assert (tmp_path / "mlflow.db").exists() is False
    assert again.end() == 0


def test_a_port_that_is_taken_is_one_line(environment):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.run(
            [sys.executable, "-m", "pipeline.server", str(port)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.endswith(f"`make server PORT={port + 1}` takes another")
