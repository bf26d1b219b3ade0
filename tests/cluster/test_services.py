"""The common test ground itself: each service runs, asks for its password, and leaves nothing behind."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import services
import team
import trainer
from processes import living
from services import HOST, Postgres, Service, free_port, need, running, status, why_no_postgres
from team import Team
from tracked import wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.short


def test_postgres_takes_its_password_from_the_environment_and_no_other(database, postgres, call, environment):
    asked = ("python", "-c", f"import psycopg; psycopg.connect('{database}').close()")
    call("/", *asked, env=postgres.secret)
    assert "password" in call("/", *asked, env=postgres.secret | {"PGPASSWORD": "another"}, code=1).stderr
    assert "no password supplied" in call("/", *asked, env={"PGUSER": postgres.user}, code=1).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="for root alone, who may not run PostgreSQL")
@pytest.mark.usefixtures("postgres")
def test_why_root_cannot_have_postgres_is_told(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        assert re.fullmatch(r"user postgres cannot run \S+: \S+ is out of its reach, set TMPDIR", why_no_postgres())
    monkeypatch.setattr(services, "POSTGRES_USER", "no-such-user")
    assert why_no_postgres().startswith("no user no-such-user here, and PostgreSQL refuses to run as root")


def test_what_is_missing_is_an_error_where_it_is_required(monkeypatch):
    monkeypatch.delenv("CLUSTER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no nothing here: the extra `server` has it"):
        need("nothing", "server")
    monkeypatch.setenv("CLUSTER", "required")
    with pytest.raises(pytest.fail.Exception, match="no nothing here"):
        need("nothing", "server")


def test_a_command_that_takes_too_long_ends_with_all_that_it_has_started(tmp_path, environment, monkeypatch):
    (tmp_path / "slow.py").write_text("import subprocess\nsubprocess.run(['sleep', '60'])\n")
    process = Team(tmp_path, environment).start("slow")
    wait_until(lambda: sum(one.group == process.pid for one in living()) > 1)
    monkeypatch.setattr(team, "DONE_SECONDS", 0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        Team(tmp_path, environment).end(process)
    wait_until(lambda: not any(one.group == process.pid for one in living()))


def test_each_test_has_a_database_of_its_own(database, postgres):
    assert database != postgres.database("one_more")


@pytest.mark.usefixtures("postgres")
def test_postgres_ends_with_all_its_processes():
    own = Postgres()
    with running(own, own.remove):
        pid = own.process.pid
        children = [process.pid for process in living() if process.parent == pid]
    assert len(children) >= 3
    for one in (pid, *children):
        with pytest.raises(ProcessLookupError):
            os.kill(one, 0)
    assert not own.folder.exists()


class Documented(Service):
    """A server by the lines of a shell."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int, lines: str) -> None:
        super().__init__(folder, environment)
        self.port = port
        self._lines = lines

    def command(self) -> list[str]:
        return ["bash", "-ec", self._lines]


def test_tracking_server_asks_for_a_password_and_checks_the_host(tracking_server):
    right = f"{tracking_server.user}:{tracking_server.password}"
    assert status(tracking_server, auth=right) == 200
    assert status(tracking_server, auth="ann:wrong") == 401
    assert status(tracking_server, auth=None) == 401
    assert status(tracking_server, auth=right, host="evil.example.com") == 403


def test_s3_keeps_what_it_gets(s3, call):
    address = s3.bucket("kept")
    script = f"""
import s3fs
files = s3fs.S3FileSystem(endpoint_url="{s3.endpoint}")
files.pipe("{address}/a", b"bytes")
assert files.cat("{address}/a") == b"bytes"
"""
    call("/", "python", "-c", script, env=s3.secret)


def test_services_listen_on_this_machine_alone(postgres, tracking_server, s3):
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]
    for service in (postgres, tracking_server, s3):
        assert [one for one in listening if one.endswith(f":{service.port:04X}")] == [f"0100007F:{service.port:04X}"]


def test_the_documented_server_starts_on_postgresql_and_s3(tmp_path, postgres, s3, environment):
    """The block of docs/team.md, with this machine's addresses in the place of the team's."""
    text = (ROOT / "docs/team.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (auth,) = re.findall(r"cat auth.ini\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    port, database = str(free_port()), postgres.database("documented")
    s3.bucket("team")
    known = {
        "PGUSER=mlflow PGPASSWORD=...": " ".join(f"{name}={value}" for name, value in postgres.secret.items()),
        "postgresql://db.example.com/mlflow": database,
        "ADMIN_PASSWORD=...": "ADMIN_PASSWORD=admins-long-password",
        "SECRET_KEY=...": "SECRET_KEY=a-long-text-of-nothing",
        "--port 5000": f"--port {port} --workers 1",
        "mlflow server": "exec python -m mlflow server",
        "mlflow.example.com": f"{HOST}:{port}",
    }
    for old, new in known.items():
        assert old in block
        block = block.replace(old, new)
    (tmp_path / "auth.ini").write_text(auth.replace("postgresql://db.example.com/mlflow", database))
    own = environment | s3.secret | {"MLFLOW_S3_ENDPOINT_URL": s3.endpoint, "PYTHONWARNINGS": "ignore"}
    server = Documented(tmp_path, own, int(port), block)
    with running(server):
        right = "admin:admins-long-password"
        assert status(server, auth=right) == 200
        assert status(server, auth="admin:wrong") == 401
        assert status(server, auth=right, host="evil.example.com") == 403
        assert status(server, auth=right, route="/signup") == 200
        assert status(server, auth=None, route="/signup") == 401
        said, log = trainer.finish(
            trainer.start(
                environment
                | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "admins-long-password"}
                | {"PIPELINE_RECORDS": str(tmp_path / "records"), "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"},
                uri=f"http://{HOST}:{port}",
                epochs=5,
            )
        )
        assert log == []
        names = {name.rpartition("/")[2] for name in s3.files("team") if f"/{said['run_id']}/" in name}
        assert {"weights.npz", "history.csv", "settings.yaml"} <= names
    assert not (tmp_path / "mlartifacts").exists()
