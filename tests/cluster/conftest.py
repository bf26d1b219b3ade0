"""What the tests of a team's set-up share; `make test-cluster` runs them, as they need more than the others do."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import S3, Postgres, TrackingServer, missing, need, running, why_no_postgres
from team import Team

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "PGCONNECT_TIMEOUT": "120"}  # seconds: other work may be going on
LONGEST = 600  # seconds of a test, before it is ended: some wait for other processes
_number = itertools.count()


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(LONGEST))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return PostgreSQL, running."""
    if why := why_no_postgres():
        missing(why)
    need("psycopg", "postgres")
    service = Postgres()
    with running(service, service.remove):
        yield service


@pytest.fixture
def database(postgres) -> str:
    """Return the address of an empty database, without user and password; `postgres.secret` has these."""
    return postgres.database(f"test_{next(_number)}")


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory, environment, postgres) -> Iterator[TrackingServer]:
    """Return an MLflow server on PostgreSQL that asks for a password, running; each test names its own experiment."""
    need("flask_wtf", "server")
    folder = tmp_path_factory.mktemp("server")
    with running(TrackingServer(folder, environment, postgres, "mlflow")) as service:
        yield service


@pytest.fixture(scope="session")
def s3(tmp_path_factory, environment) -> Iterator[S3]:
    """Return an S3 store, running and empty."""
    need("moto", "cluster")
    with running(S3(tmp_path_factory.mktemp("s3"), environment | S3.secret)) as service:
        yield service


@pytest.fixture
def team(environment, tracking_server, postgres, tmp_path) -> Team:
    """Return an empty folder whose commands go to the server, and may use databases."""
    own = {"PYTHONPATH": str(ROOT), "PIPELINE_RECORDS": str(tmp_path / "records"), **PATIENCE}
    return Team(tmp_path, environment | own | postgres.secret | tracking_server.client_environment)


@pytest.fixture
def client(tracking_server, own_tracking, monkeypatch):
    """Return MLflow's client of the server, as its administrator."""
    import mlflow

    for name, value in tracking_server.secret.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(tracking_server.uri)
