"""`make server`: an MLflow server with passwords, as a team has it, for trying it out on this machine alone."""

import argparse
import logging
import os
import secrets
import shlex
from importlib.util import find_spec
from pathlib import Path

from pipeline.address import check_bare, redact
from pipeline.command import parsing_command
from pipeline.errors import SettingsError
from pipeline.tracking import store_root
from pipeline.tracking.store import check_uri
from pipeline.ui import HOST, check_free, port_of, serve, start

PORT = 5050
USER = "admin"
FOLDER = Path("server")  # in the project: what the server keeps
STORE = "MLFLOW_BACKEND_STORE_URI"
PRIVATE = 0o600
AUTH = """[mlflow]
default_permission = EDIT
auth_cache_ttl_seconds = 60
database_uri = {users}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""

log = logging.getLogger(__name__)


def secret(file: Path) -> str:
    """Return a password that a file keeps for its owner alone; it is drawn where there is none."""
    if not file.exists():
        file.touch(mode=PRIVATE)
        file.write_text(secrets.token_urlsafe(16) + "\n", encoding="ascii")
    return file.read_text(encoding="ascii").strip()


def variables(folder: Path, store: str) -> dict[str, str]:
    """Return the environment of a server that keeps its users in `folder`, or in the database that its runs are in.

    Args:
        folder: of the server.
        store: the address of the runs.
    """
    users = folder / "auth.ini"
    users.touch(mode=PRIVATE)
    users.write_text(AUTH.format(users=_sqlite(folder / "users.db") if store.startswith("sqlite") else store))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret(folder / "password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(folder / "key"),
    }


def _sqlite(file: Path) -> str:
    return f"sqlite:///{file}"


def _tell(port: int, store: str, folder: Path) -> None:
    """Say how to use the server, and what a team changes."""
    base = f"http://{HOST}:{port}"
    log.info("the pages:   %s  (user %s, password in %s)", base, USER, folder / "password")
    log.info(
        "the runs:    export MLFLOW_TRACKING_URI=%s MLFLOW_TRACKING_USERNAME=%s "
        'MLFLOW_TRACKING_PASSWORD="$(cat %s)"; python -m pipeline.train tracking=server net=scratch',
        *(base, USER, shlex.quote(str(folder / "password"))),
    )
    log.info("they stand in %s, their files in %s", redact(store), folder / "artifacts")
    log.info("for a team:  PostgreSQL, HTTPS, a user for each: docs/team.md says what to change")


@parsing_command
def main() -> None:
    """Serve on 127.0.0.1 until Ctrl-C; the port is the first argument, else 5050."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.server", description=__doc__)
    parser.add_argument("port", nargs="*", metavar="PORT", help=f"{PORT} where it is left out")
    port = port_of(parser.parse_args().port, PORT)
    named = os.environ.get(STORE, "")
    check_bare(named, STORE, f"{FOLDER}/auth.ini would keep it")
    if find_spec("flask_wtf") is None:
        raise SettingsError(
            "the package flask-wtf, which passwords need, is missing: `make setup-cluster` installs it"
        )
    check_free(port, "server")
    folder = store_root() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    store = named or _sqlite(folder / "mlflow.db")
    check_uri(store)
    more = ("--app-name", "basic-auth", "--artifacts-destination", str(folder / "artifacts"))
    serve(start(store, port, more, variables(folder, store)), port, lambda: _tell(port, store, folder))


if __name__ == "__main__":
    main()
