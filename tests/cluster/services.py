"""What a team has beside its machines, for tests: PostgreSQL, an MLflow server on it, and an S3 store.

All real, on 127.0.0.1, each in a process group of its own on a port of its own, in a folder that goes with it.
"""

import abc
import base64
import contextlib
import http.client
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

HOST = "127.0.0.1"
READY_SECONDS = 180  # slow machines take their time; measured: 2 s each, the MLflow server 15
POSTGRES_USER = "postgres"  # of the system: PostgreSQL refuses to run as root
AS_USER = {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []}
DEBIAN = Path("/usr/lib/postgresql")


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


class Service(abc.ABC):
    """A program that serves; its children end with it."""

    ending = signal.SIGTERM

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.port = free_port()
        self.log = folder / f"{type(self).__name__.lower()}.log"
        self.process: subprocess.Popen | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the program with its arguments."""

    def start(self, **options) -> None:
        """Start it, and return when it answers; `options` are Popen's."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        end = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if time.monotonic() > end or self.process.poll() is not None:
                self.kill()
                raise AssertionError(f"{self.command()[0]} is not ready: {self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Return whether it answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def stop(self) -> None:
        """End it as its administrator does, and what is left of it as a crash does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(self.ending)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()

    def kill(self) -> None:
        """Kill it and its children."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def postgres_program(name: str) -> Path | None:
    """Return one of PostgreSQL's programs: on the PATH, or where Debian's packages have the newest; None: nowhere."""
    if found := shutil.which(name):
        return Path(found)
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parent.parent.name))
    return versions[-1] if versions else None


class Postgres(Service):
    """PostgreSQL over TCP alone, with passwords (SCRAM); its superuser `team` makes the databases."""

    user = "team"
    ending = signal.SIGINT  # its "fast" shutdown, which waits for no client

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.password = secrets.token_hex(12)
        super().__init__(folder, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
        self._data = folder / "data"
        self._owner = AS_USER if os.geteuid() == 0 else {}
        if self._owner:
            shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)

    def command(self) -> list[str]:
        address = ("-p", str(self.port), "-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=")
        return [str(postgres_program("postgres")), "-D", str(self._data), *address]

    def start(self) -> None:
        if not self._data.exists():
            self._make()
        super().start(**self._owner)

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # in a folder that is the owner's alone
        made = [str(postgres_program("initdb")), "-D", str(self._data), "-U", self.user, "-A", "scram-sha-256"]
        done = subprocess.run(
            [*made, f"--pwfile={secret}", "-E", "UTF8"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **self._owner,
        )
        assert done.returncode == 0, done.stderr

    def is_ready(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self._connect().close()
            return True
        return False

    def _connect(self):
        import psycopg

        given = {"host": HOST, "port": self.port, "user": self.user, "password": self.password}
        return psycopg.connect(dbname="postgres", autocommit=True, **given)

    def database(self, name: str) -> str:
        """Make a database, and return its address, which has no user and no password: `secret` has these."""
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://{HOST}:{self.port}/{name}"

    @property
    def secret(self) -> dict[str, str]:
        """Return what the environment of its clients holds."""
        return {"PGUSER": self.user, "PGPASSWORD": self.password}

    def remove(self) -> None:
        """End it, and remove all that it has kept."""
        self.stop()
        shutil.rmtree(self.folder)


class TrackingServer(Service):
    """`mlflow server` as docs/team.md has it: on PostgreSQL, artifacts through it, host check and passwords on."""

    user, password = "ann", "anns-long-password"

    def __init__(self, folder: Path, environment: dict[str, str], postgres: Postgres, name: str) -> None:
        own = {
            "MLFLOW_BACKEND_STORE_URI": postgres.database(name),
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONWARNINGS": "ignore",
        }
        super().__init__(folder, environment | postgres.secret | own)
        (folder / "auth.ini").write_text(
            "[mlflow]\ndefault_permission = EDIT\nauth_cache_ttl_seconds = 60\n"
            f"database_uri = {postgres.database(name + '_users')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
            *("--host", HOST, "--port", str(self.port), "--allowed-hosts", f"{HOST}:{self.port}"),
            *("--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"),
        ]

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def secret(self) -> dict[str, str]:
        """Return what the environment of its clients holds."""
        return {"MLFLOW_TRACKING_USERNAME": self.user, "MLFLOW_TRACKING_PASSWORD": self.password}

    def make_user(self, name: str, password: str) -> dict[str, str]:
        """Make a user who is no administrator, and return what the environment of its clients holds."""
        self._ask("POST", "create", name, password)
        return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}

    def change_password(self, name: str, password: str) -> None:
        self._ask("PATCH", "update-password", name, password)

    def _ask(self, method: str, what: str, name: str, password: str) -> None:
        import requests

        route = f"{self.uri}/api/2.0/mlflow/users/{what}"
        given = {"username": name, "password": password}
        requests.request(method, route, json=given, auth=(self.user, self.password), timeout=60).raise_for_status()

    @property
    def client_environment(self) -> dict[str, str]:
        """Return all that a client's environment needs."""
        return {"MLFLOW_TRACKING_URI": self.uri, **self.secret}


QUESTION = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"


def status(server: Service, *, auth: str | None, host: str | None = None, route: str = QUESTION) -> int:
    """Return how an MLflow server answers a client with this `user:password`."""
    given = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", route, headers=given | ({"Host": host} if host else {}))
        return connection.getresponse().status


class S3(Service):
    """moto's S3, whose buckets are in its memory; it takes any credentials."""

    secret = {  # noqa: RUF012 – nobody changes it
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(12),
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def bucket(self, name: str) -> str:
        """Make a bucket, and return its address."""
        self._client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def files(self, bucket: str) -> list[str]:
        """Return the names of what a bucket holds, a thousand at most."""
        return [found["Key"] for found in self._client().list_objects_v2(Bucket=bucket).get("Contents", [])]

    def _client(self):
        from botocore.session import get_session

        given = {"aws_access_key_id": self.secret["AWS_ACCESS_KEY_ID"], "region_name": "us-east-1"}
        given["aws_secret_access_key"] = self.secret["AWS_SECRET_ACCESS_KEY"]
        return get_session().create_client("s3", endpoint_url=self.endpoint, **given)


def missing(why: str) -> NoReturn:
    """Skip a test that needs what is not here; with CLUSTER=required, as in CI, fail it."""
    (pytest.fail if os.environ.get("CLUSTER") == "required" else pytest.skip)(why)


def need(package: str, extra: str) -> None:
    """Skip or fail, see `missing`, where a package is not here."""
    if importlib.util.find_spec(package) is None:
        missing(f"no {package} here: the extra `{extra}` has it")


def why_no_postgres() -> str:
    """Return why PostgreSQL cannot be had here; empty: it can."""
    program = postgres_program("initdb")
    if not program:
        return "no PostgreSQL here: apt-get install postgresql"
    return _why_not_as_user(program) if os.geteuid() == 0 else ""


def _why_not_as_user(program: Path) -> str:
    """Return why root cannot run a program as POSTGRES_USER in a temporary folder; empty: it can."""
    try:
        pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        return f"no user {POSTGRES_USER} here, and PostgreSQL refuses to run as root: apt-get install postgresql"
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)
        done = subprocess.run(
            ["sh", "-c", 'test -w "$0" && "$1" --version', folder, program],
            **AS_USER,
            capture_output=True,
            text=True,
            check=False,
        )
    told = done.stderr.strip() or f"{folder} is out of its reach, set TMPDIR"
    return f"user {POSTGRES_USER} cannot run {program}: {told}" if done.returncode else ""


@contextlib.contextmanager
def running(service: Service, end: Callable[[], None] | None = None):
    """Yield a service that runs, and end it."""
    try:
        service.start()
        yield service
    finally:
        (end or service.stop)()
