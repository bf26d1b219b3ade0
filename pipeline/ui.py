"""`make ui`: MLflow's UI on the project's store, for this machine alone."""

import argparse
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pipeline.command import parsing_command
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking import open_store, tracking_uri
from pipeline.tracking.pages import is_served, results_page, run_page, server
from pipeline.tracking.table import own_settings, runs

HOST = "127.0.0.1"
PORT = 5000
LARGEST_PORT = 2**16 - 1
NEWEST = 100  # among which the newest of each net is sought
START_SECONDS = 180.0  # measured: 3 to 6, 15 with passwords; where other work has the processors, many times that
STOP_SECONDS = 10.0
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes of 240 MB, for jobs that only traces have
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",  # of the packages' authors among themselves
}

NONE: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger(__name__)


def port_of(arguments: list[str], default: int = PORT) -> int:
    """Return the port that the command line names, else the default.

    Raises:
        SettingsError: it is no port.
    """
    text = arguments[0] if arguments else str(default)
    if len(arguments) > 1 or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LARGEST_PORT:
        raise SettingsError(
            f"PORT: one whole number from 1 to {LARGEST_PORT} is needed, but got {' '.join(arguments)}"
        )
    return int(text)


def check_free(port: int, target: str = "ui") -> None:
    """Raise OSError where another program has the port; `make <target>` takes another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = port + 1 if port < LARGEST_PORT else PORT
            raise OSError(
                f"port {port} of {HOST}: {error.strerror}; `make {target} PORT={other}` takes another"
            ) from error


def start(
    uri: str, port: int, more: Sequence[str] = (), variables: Mapping[str, str] = NONE
) -> "subprocess.Popen[bytes]":
    """Start MLflow's server for this machine's browser alone: its checks of Host and Origin let only that pass.

    Args:
        uri: of the store.
        port: that it listens on.
        more: arguments.
        variables: of its environment.
    """
    hosts = [f"{host}:{port}" for host in (HOST, "localhost")]
    arguments = {
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
        "--allowed-hosts": ",".join(hosts),  # by default it takes any name that begins like a private address
        "--cors-allowed-origins": ",".join(f"http://{host}" for host in hosts),
        "--uvicorn-opts": "--log-level=warning",
    }
    flat = [text for option in arguments.items() for text in option]
    environment = os.environ | ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}  # `ps` would show it as an argument
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *flat, *more],
        env=environment | dict(variables),
        stdout=subprocess.DEVNULL,
    )


def wait_until_up(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Return as soon as the server answers.

    Raises:
        OSError: it has ended, or does not answer within START_SECONDS.
    """
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise OSError(f"MLflow's server on port {port} has not started; what it says stands above")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server; it hands the signal on to its own child."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(process: "subprocess.Popen[bytes]", port: int, tell: Callable[[], None]) -> None:
    """Let a server that was started serve until Ctrl-C.

    Args:
        process: the server.
        port: that it is to listen on.
        tell: called as soon as it answers.

    Raises:
        OSError: it has ended by itself, or has not started.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        wait_until_up(process, port)
        tell()
        log.info("Ctrl-C ends it")
        code = process.wait()
        raise OSError(f"MLflow's server has ended with exit code {code}; what it says stands above")
    except KeyboardInterrupt:
        log.info("ended")
    finally:
        stop(process)


def newest(settings: Settings) -> list[str]:
    """Return the id of the newest finished run of each net, but for those that only reproduce another."""
    table = runs(NEWEST, settings=settings).reindex(columns=["net", "status", "reproduces"])
    own = table[(table["status"] == "FINISHED") & table["reproduces"].isna()]
    return [str(run_id) for run_id in own.drop_duplicates("net").index]


@parsing_command
def main() -> None:
    """Serve the project's store on 127.0.0.1 until Ctrl-C; the port is the first argument, else 5000."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.ui", description="Show the tracked runs in MLflow's pages."
    )
    parser.add_argument(
        "port", nargs="*", metavar="PORT", help=f"from 1 to {LARGEST_PORT}; {PORT} where it is left out"
    )
    port = port_of(parser.parse_args().port)
    settings = own_settings()
    if is_served(settings):
        log.info("the tracking server shows the runs itself: %s", server(settings))
        return
    check_free(port)
    open_store(settings)
    serve(start(tracking_uri(settings), port), port, lambda: _tell(settings, f"http://{HOST}:{port}"))


def _tell(settings: Settings, base: str) -> None:
    log.info("all runs:    %s", results_page(settings, base))
    run_ids = newest(settings)
    log.info("the newest:  %s", run_page(settings, run_ids, base) if run_ids else "none yet; `make repro` makes some")


if __name__ == "__main__":
    main()
