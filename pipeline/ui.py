"""`make ui`: MLflow's UI on the project's store, for this machine alone."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import NoReturn

from pipeline.command import command
from pipeline.config import NETS, Settings, load_params
from pipeline.errors import SettingsError
from pipeline.tracking import open_store, tracking_uri
from pipeline.tracking.address import is_served, results_page, run_page, server
from pipeline.tracking.table import runs

HOST = "127.0.0.1"
PORT = 5000
START_SECONDS = 60.0  # measured: 3 to 6
STOP_SECONDS = 10.0
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes of 240 MB, for jobs that only traces have
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",  # of the packages' authors among themselves
}

log = logging.getLogger(__name__)


def port_of(arguments: list[str]) -> int:
    """Return the port that the command line names, else PORT.

    Raises:
        SettingsError: it is no port.
    """
    text = arguments[0] if arguments else str(PORT)
    if len(arguments) > 1 or not text.isascii() or not text.isdigit() or not 1 <= int(text) < 2**16:
        raise SettingsError(f"PORT: one whole number from 1 to 65535 is needed, but got {' '.join(arguments)}")
    return int(text)


def check_free(port: int) -> None:
    """Raise OSError where another program has the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(f"port {port} of {HOST}: {error.strerror}; `make ui PORT={port + 1}` tries another") from error


def start(uri: str, port: int) -> "subprocess.Popen[bytes]":
    """Start MLflow's server; MLflow's check of the Host header stays on, which lets only this machine's names pass."""
    arguments = ["server", "--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts=--log-level=warning"]
    own = ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: `ps` would show a password
    clean = {name: value for name, value in os.environ.items() if name not in LOOSER}
    return subprocess.Popen([sys.executable, "-m", "mlflow", *arguments], env=clean | own, stderr=subprocess.PIPE)
