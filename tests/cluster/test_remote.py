"""A DVC remote on S3: what one clone has made, another one need not make again; and what is told where it fails."""

import http.server
import random
import re
import shutil
import threading
from pathlib import Path

import pytest
from repro_project import Project, copied, ran
from services import HOST, free_port

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
TINY = ("net=scratch", "scratch.epochs=2", "synthetic.n_samples=300", "synthetic.n_train=200")


@pytest.fixture
def call_s3(call, s3):
    """Return `call` for commands that know the credentials."""
    return lambda folder, *command, code=0, env=None: call(folder, *command, code=code, env=s3.secret | (env or {}))


def join(project: Project, s3, bucket: str, *options: str) -> None:
    """Have a project use a remote, by the commands of docs/team.md."""
    project.dvc("remote", "add", *options, "--default", "team", f"s3://{bucket}/project")
    project.dvc("remote", "modify", *options, "team", "endpointurl", s3)


def contents(project: Project) -> dict[Path, bytes]:
    """Return the bytes of all that the stages have made, by the path in the project."""
    return {Path(name).relative_to(project.root): content for name, content in project.bytes_of("data").items()}


@pytest.mark.short
def test_a_second_clone_trains_nothing_that_the_first_has_trained(small, s3, call_s3, tmp_path):
    first = copied(small, tmp_path / "first")
    first = Project(first.root, call_s3)
    s3.bucket("shared")
    join(first, s3.endpoint, "shared")
    first.call(first.root, "git", "commit", "-qam", "A remote")
    trained = contents(first)
    first.dvc("push", "--run-cache")
    first.edit("conf/scratch/default.yaml", "epochs: 4", "epochs: 3")  # tried, and never committed
    assert ran(first.repro()) == ["compose", "train_scratch", "evaluate"]
    tried = contents(first)
    first.dvc("push", "--run-cache")  # what the folder holds, whether committed or not

    second = Project(tmp_path / "second", call_s3)
    call_s3(tmp_path, "git", "clone", "-q", str(first.root), str(second.root))
    second.dvc("pull", "--run-cache")
    assert ran(second.repro()) == []
    assert contents(second) == trained
    second.edit("conf/scratch/default.yaml", "epochs: 4", "epochs: 3")
    done = second.dvc("repro", "--pull")
    assert ran(done) == ["compose"]
    assert "Stage 'train_scratch' is cached - skipping run" in done.stdout
    assert contents(second) == tried
    assert s3.secret["AWS_SECRET_ACCESS_KEY"].encode() not in b"".join(
        path.read_bytes() for root in (first.root, second.root) for path in root.rglob("*") if path.is_file()
    )


class Refusing(http.server.BaseHTTPRequestHandler):
    """S3 as it answers credentials that it does not take: 403 for unknown ones, 400 for expired ones."""

    status = 403

    def answer(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(EXPIRED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(EXPIRED)

    do_GET = do_HEAD = do_PUT = do_POST = answer  # noqa: N815 – http.server's names

    def log_message(self, *arguments) -> None: ...


@pytest.fixture(params=[403, 400], ids=["wrong credentials", "expired credentials"])
def refusing(request):
    """Return the address of an S3 store that takes no credentials."""
    handler = type("Handler", (Refusing,), {"status": request.param})
    server = http.server.ThreadingHTTPServer((HOST, free_port()), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def tracked(clone, call_s3, tmp_path):
    """Return a project with a tracked run, and the run's id."""
    own = {"PIPELINE_RECORDS": str(tmp_path / "records"), "PYTHONPATH": str(tmp_path / "project")}

    def call(folder, *command, code=0, env=None):
        return call_s3(folder, *command, code=code, env=own | (env or {}))

    project = Project(clone(tmp_path / "project"), call)
    return project, train(project, *TINY)


def train(project: Project, *overrides: str) -> str:
    """Train, and return the run's id."""
    said = project.call(project.root, "python", "-m", "pipeline.train", *overrides)
    return re.search(r"\brun ([0-9a-f]{32})\b", said.stdout + said.stderr)[1]


def reproduce(project: Project, run_id: str, *, code: int = 0, env=None) -> list[str]:
    """Return the lines that tell of the remote, or of an error."""
    done = project.call(project.root, "python", "-m", "pipeline.reproduce", run_id, code=code, env=env)
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(("DVC's remote", "error"))]


def pull(project: Project, env=None) -> list[str]:
    """Return the errors of a `dvc pull` that fails."""
    (project.root / "wanted.dvc").write_text(f"outs:\n- md5: {'a' * 32}\n  size: 1\n  hash: md5\n  path: wanted\n")
    done = project.call(project.root, "dvc", "pull", "wanted.dvc", code=1, env=env)
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("ERROR")]


def test_credentials_that_are_not_taken_are_one_line_and_cost_no_training(tracked, refusing, s3):
    project, run_id = tracked
    join(project, refusing, "shared", "--local")
    told = "DVC's remote cannot be used: its credentials are missing, wrong or expired"
    assert reproduce(project, run_id) == [told]  # and makes the data again
    first, last = pull(project)
    assert first.startswith("ERROR: failed to connect to s3 (shared/project/files/md5)")
    assert last == "ERROR: failed to pull data from the cloud - 1 files failed to download"
    assert s3.secret["AWS_SECRET_ACCESS_KEY"] not in first


def test_no_credentials_at_all_are_one_line(tracked, s3):
    project, run_id = tracked
    join(project, s3.endpoint, "shared", "--local")
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    nobody |= {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    told = "DVC's remote cannot be used: its credentials are missing, wrong or expired"
    assert reproduce(project, run_id, env=nobody) == [told]
    assert pull(project, nobody)[0].endswith("Unable to locate credentials")


def test_a_remote_that_is_not_there_is_one_line(tracked):
    project, run_id = tracked
    join(project, "http://127.0.0.1:9", "shared", "--local")
    assert reproduce(project, run_id) == ["DVC's remote cannot be used: it cannot be connected to"]
    assert "Could not connect to the endpoint URL" in pull(project)[0]


def write_images(path, seed: int, n_images: int) -> None:
    rng = random.Random(seed)
    header = ["label", *(f"{i}x{j}" for i in range(1, 29) for j in range(1, 29))]
    rows = [[number % 10, *(rng.randrange(256) for _ in header[1:])] for number in range(n_images)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")


def test_a_remote_without_the_data_says_where_they_may_be(tracked, s3, tmp_path):
    """Of data that nothing else can bring back: the user's own CSVs, which are gone."""
    project, _ = tracked
    s3.bucket("empty")
    join(project, s3.endpoint, "empty", "--local")
    files = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for seed, file in enumerate(files):
        write_images(file, seed, 50)
    own = (f"mnist.train_csv={files[0]}", f"mnist.test_csv={files[1]}")
    own = ("net=scratch", "scratch.dataset=mnist", "scratch.epochs=2", *own)
    run_id = train(project, *own)
    for file in files:
        file.unlink()
    shutil.rmtree(project.root / ".dvc/cache/files")
    (line,) = reproduce(project, run_id, code=2)
    assert re.match(r"error: the run's data \(md5 \w{32}\) are neither in DVC's cache nor in its remote, and ", line)
    assert line.endswith("`dvc fetch --all-commits` may bring them, or `dvc push` where the run was made")
