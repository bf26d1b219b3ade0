"""`tracking=server`: every command on an MLflow server with PostgreSQL, proxied artifacts and passwords."""

import http.server
import re
import secrets
import threading
from pathlib import Path

import pytest
import trainer
import yaml
from repro_project import SMALL, STAGES, Project, ran
from services import HOST, free_port
from tracked import wait_until
from whole import assert_whole, runs_of

from pipeline.address import NOT_LET_IN
from pipeline.tracking.records import all_records

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-wrong-secret"
NOBODY = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # importing mlflow.pyfunc


@pytest.fixture
def member(tracking_server):
    """Return the environment of a member of the team who is no administrator."""
    return tracking_server.make_user(f"bob-{secrets.token_hex(4)}", secrets.token_hex(12))


def secrets_in(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that hold one of these."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


def params(team, settings_of, *overrides: str) -> None:
    from pipeline.config import to_dict

    (team.folder / "params.yaml").write_text(yaml.safe_dump(to_dict(settings_of(*overrides))))


def test_a_members_training_is_whole_and_no_secret_is_kept(team, member, client, tracking_server):
    said, log = trainer.finish(trainer.start(team.environment | member, uri=tracking_server.uri, epochs=30))
    assert log == []
    assert assert_whole(client, team.folder / "records", said["record_id"]) == said["run_id"]
    assert secrets_in(team.folder, member["MLFLOW_TRACKING_PASSWORD"]) == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": SECRET}, NOT_LET_IN),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, NOT_LET_IN),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "connection refused"),
        ({"MLFLOW_TRACKING_URI": "http://no-such-host.invalid"}, "no such host"),
    ],
    ids=["wrong password", "no password", "unreachable", "no host"],
)
def test_who_is_not_let_in_gets_one_line_and_loses_nothing(
    team, client, tracking_server, settings_of, variables, why
):
    params(team, settings_of)
    uri = variables.get("MLFLOW_TRACKING_URI", tracking_server.uri)
    said, (line,) = trainer.finish(trainer.start(team.environment | variables, uri=uri, epochs=30))
    assert said["run_id"] is None
    assert line.startswith(f"{uri}: the tracking store cannot be reached ({why}): the run is kept in records/")
    for command in ("compare", "sync"):
        (line,) = team.run(f"pipeline.{command}", code=1, **variables).stderr.splitlines()
        assert re.fullmatch(rf"error: tracking\.uri: {uri} cannot be (opened|read): {re.escape(why)}", line)
        assert SECRET not in line
    assert secrets_in(team.folder, SECRET) == []
    team.run("pipeline.sync", "--to", tracking_server.uri)
    assert_whole(client, team.folder / "records", said["record_id"])


def test_a_training_under_way_finishes_when_its_password_expires(team, member, client, tracking_server, settings_of):
    go_on = team.folder / "go_on"
    process = trainer.start(team.environment | member, uri=tracking_server.uri, epochs=40, until=str(go_on))
    wait_until(lambda: any((team.folder / "records").glob("*/delivered.json")), 120)
    (record,) = all_records(team.folder / "records")
    wait_until(lambda: any(run.data.metrics for run in runs_of(client, record.id)), 120)
    tracking_server.change_password(member["MLFLOW_TRACKING_USERNAME"], "another-long-password")
    go_on.touch()
    said, log = trainer.finish(process)
    (line,) = log
    assert f"cannot be reached ({NOT_LET_IN})" in line
    assert member["MLFLOW_TRACKING_PASSWORD"] not in line
    params(team, settings_of)
    team.run("pipeline.sync", **member | {"MLFLOW_TRACKING_PASSWORD": "another-long-password"})
    assert_whole(client, team.folder / "records", said["record_id"])


class TokenGate(http.server.BaseHTTPRequestHandler):
    """A proxy before the server, as companies have it: it lets a token in, and says who that is."""

    token, target, inner = "", 0, {}

    def answer(self) -> None:
        import requests

        if self.headers["Authorization"] != f"Bearer {self.token}":
            self.send_error(401)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {name: value for name, value in self.headers.items() if name not in ("Authorization", "Host")}
        user = (self.inner["MLFLOW_TRACKING_USERNAME"], self.inner["MLFLOW_TRACKING_PASSWORD"])
        url = f"http://{HOST}:{self.target}{self.path}"
        got = requests.request(self.command, url, data=body, headers=kept, auth=user, timeout=120)
        self.send_response(got.status_code)
        self.send_header("Content-Type", got.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(got.content)))
        self.end_headers()
        self.wfile.write(got.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 – http.server's names

    def log_message(self, *arguments) -> None: ...


def test_a_token_does_in_place_of_user_and_password_until_it_expires(team, client, tracking_server):
    gate = type("Gate", (TokenGate,), {"token": "the-token", "target": tracking_server.port})
    gate.inner = tracking_server.secret
    server = http.server.ThreadingHTTPServer((HOST, free_port()), gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://{HOST}:{server.server_port}"
        own = {name: text for name, text in team.environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        own |= {"MLFLOW_TRACKING_TOKEN": "the-token"}
        said, log = trainer.finish(trainer.start(own, uri=uri, epochs=30))
        assert log == []
        assert_whole(client, team.folder / "records", said["record_id"])
        gate.token = "a-newer-token"
        said, (line,) = trainer.finish(trainer.start(own, uri=uri, epochs=30))
        assert line.startswith(f"{uri}: the tracking store cannot be reached ({NOT_LET_IN}): the run is kept in ")
        assert "the-token" not in line
        assert secrets_in(team.folder, "the-token") == []
    finally:
        server.shutdown()
        server.server_close()


def test_with_tracking_server_nothing_goes_to_a_store_of_this_machine(team):
    train = ("pipeline.train", "net=scratch", "scratch.epochs=1", "tracking=server")
    for uri, told in (("", "none"), ("sqlite:///mlflow.db", "sqlite:///mlflow.db")):
        (line,) = team.run(*train, code=1, MLFLOW_TRACKING_URI=uri).stderr.splitlines()
        assert line.startswith("error: tracking.uri: with tracking=server it, or MLFLOW_TRACKING_URI, must be a ")
        assert line.endswith(f"but got {told}; see conf/tracking/server.yaml")
    assert not (team.folder / "records").exists()


def test_the_whole_pipeline_on_the_server(team, member, clone, call, client, tracking_server, tmp_path):
    """dvc repro, the registry, compare, reproduce and the model itself, by a member of the team."""
    root = clone(tmp_path / "project")
    variables = team.environment | member | {"PYTHONPATH": str(root)}

    def own(folder, *arguments, code=0):
        return call(folder, *arguments, code=code, env=variables)

    project = Project(root, own)
    for file, old, new in SMALL.values():
        project.edit(f"conf/{file}", old, new)
    project.edit("conf/config.yaml", "tracking: local", "tracking: server")
    own(root, "git", "commit", "-qam", "Small settings")
    done = project.repro()
    assert ran(done) == STAGES
    assert not (root / "mlflow.db").exists()
    champion = client.get_model_version_by_alias("digits", "champion")
    run_id = champion.tags["run_id"]
    assert "test_accuracy" in client.get_run(run_id).data.metrics
    assert {"pictures", "weights.npz"} <= {artifact.path for artifact in client.list_artifacts(run_id)}
    script = "import mlflow; model = mlflow.pyfunc.load_model('models:/digits@champion');"
    shown = own(root, "python", "-c", f"{script} print(model.predict(model.input_example).shape)").stdout
    assert shown.splitlines()[-1] == "(2, 10)"
    table = own(root, "python", "-m", "pipeline.compare").stdout
    assert run_id[:8] in table
    page = own(root, "python", "-m", "pipeline.compare", run_id).stdout
    assert f"{tracking_server.uri}/#/experiments/" in page
    said = own(root, "python", "-m", "pipeline.reproduce", run_id)
    assert said.stderr.splitlines()[-1] == "identical"
    assert secrets_in(root, member["MLFLOW_TRACKING_PASSWORD"]) == []
