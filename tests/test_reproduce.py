"""`pipeline.reproduce` in real projects: git repository, DVC cache and remote, SQLite store, runs in processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tracked import wait_until

from pipeline import mnist_csv
from pipeline.lineage import SECRET
from pipeline.reproduce import DIFFERENT, IDENTICAL, MISSING, MissingError, _checkout, differences
from pipeline.tracking import PastRun
from pipeline.tracking.records import Opening
from pipeline.trained import Trained

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ("net=scratch", "scratch.epochs=3", "synthetic.n_samples=600", "synthetic.n_train=400")


class Project:
    """A copy of the project as a git repository of its own, with commands that run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT_"))
        }
        self.env = clean | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
        for name in ("AUTHOR", "COMMITTER"):
            self.env |= {f"GIT_{name}_NAME": "t", f"GIT_{name}_EMAIL": "t@localhost"}

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    def do(self, *command: str) -> str:
        done = self.call(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def train(self, *overrides: str) -> str:
        """Train, and return the run's id."""
        said = self.do("python", "-m", "pipeline.train", *overrides)
        found = re.search(r"\brun ([0-9a-f]{32})\b", said)
        assert found, said
        return found[1]

    def reproduce(self, *arguments: str) -> tuple[int, str]:
        done = self.call("python", "-m", "pipeline.reproduce", *arguments)
        return done.returncode, done.stdout + done.stderr

    def tags(self, run_id: str) -> dict[str, str]:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}").get_run(run_id).data.tags

    def made_with(self, param: str, value: str) -> list[str]:
        """Return the ids of the runs that have a param."""
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db")) as connection:
            found = connection.execute("SELECT run_uuid FROM params WHERE key = ? AND value = ?", (param, value))
            return [run_id for (run_id,) in found]

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def copy_project(root: Path) -> Project:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    project = Project(root)
    project.do("git", "init", "-q")
    project.do("git", "add", "-A")
    project.do("git", "commit", "-q", "-m", "project")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def clean_run(project):
    return project.train(*SCRATCH)


@pytest.fixture
def restored(project):
    """The project, brought back to its commit afterwards."""
    yield project
    project.do("git", "checkout", "-q", "--", ".")
    project.do("git", "clean", "-fdq")


def net(**changes):
    first = {"W1": np.zeros((2, 3)), "b1": np.zeros((2, 1))}
    return Trained("scratch", "synthetic", ("tanh", "sigmoid"), first | changes, {"loss": [0.5, 0.25]}, "")


def test_identical_nets_have_no_differences():
    assert differences(net(), net()) == []


@pytest.mark.parametrize(
    ("again", "line"),
    [
        (net(W1=np.full((2, 3), 1e-16)), "W1: 6 of 6 weights differ, by up to 1e-16"),
        (net(W1=np.zeros((2, 4))), "W1: is float64 (2, 4) in the new run, float64 (2, 3) in the first"),
        (net(W1=np.zeros((2, 3), np.float32)), "W1: is float32 (2, 3) in the new run, float64 (2, 3) in the first"),
        (net(W3=np.zeros(1)), "W3: only in the new run"),
    ],
)
def test_a_difference_is_located(again, line):
    assert differences(net(), again) == [line]


def test_a_run_is_reproduced_and_the_checkout_is_left_alone(project, clean_run):
    """The beginning of its id will do; and the reproduction is a run that names the first."""
    from mlflow import MlflowClient

    before = project.do("git", "status", "--porcelain", "--branch")
    code, said = project.reproduce(clean_run[:8])
    assert (code, said.splitlines()[-1]) == (IDENTICAL, "identical")
    assert project.do("git", "status", "--porcelain", "--branch") == before
    assert len(project.do("git", "worktree", "list").splitlines()) == 1

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "neural-nets"]
    again = client.search_runs([experiment.experiment_id], f"tags.reproduces = '{clean_run}'")[0]
    assert again.data.tags["reproduction"] == "identical"
    assert again.data.tags["weights_sha256"] == project.tags(clean_run)["weights_sha256"]
    assert again.data.tags["git.commit"] == project.tags(clean_run)["git.commit"]
    assert again.data.tags["stage"] == "pipeline.reproduce"
    assert again.data.tags["overrides"] == " ".join(SCRATCH)
    first = client.get_run(clean_run)
    assert again.data.params == first.data.params
    assert again.inputs.dataset_inputs == first.inputs.dataset_inputs != []
    assert again.info.status == "FINISHED"


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_one_that_is_ended_leaves_no_worktree(project, clean_run, ending):
    command = [sys.executable, "-m", "pipeline.reproduce", clean_run]
    process = subprocess.Popen(command, cwd=project.root, env=project.env, stderr=subprocess.PIPE)
    worktrees = project.root / ".git/worktrees"
    wait_until(lambda: worktrees.is_dir() and any(worktrees.iterdir()))
    process.send_signal(ending)
    _, said = process.communicate()
    assert process.returncode == 130, said.decode()
    assert len(project.do("git", "worktree", "list").splitlines()) == 1


@pytest.fixture
def checkout_of(tmp_path):
    """A repository with one commit, and a function that checks it out as `reproduce` does, in a folder."""
    root = tmp_path / "repository"
    git = ("git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    past = PastRun("a" * 32, Opening("", "", ""), {"git.commit": commit}, net(), tmp_path)
    return root, lambda folder: _checkout(past, root, folder)


def test_a_worktree_that_git_cannot_make_is_one_clear_error(checkout_of, tmp_path):
    _, checkout = checkout_of
    (tmp_path / "code").write_text("in the way")
    with (
        pytest.raises(MissingError, match=r"code: git can make no worktree there: .*already exists"),
        checkout(tmp_path),
    ):
        pass


def test_worktrees_of_killed_reproductions_are_dropped_and_no_others(checkout_of, tmp_path):
    root, checkout = checkout_of
    for name in ("reproduce-killed", "on-a-stick"):
        subprocess.run(
            ["git", "-C", str(root), "worktree", "add", "-q", "--detach", tmp_path / name / "code"], check=True
        )
        shutil.rmtree(tmp_path / name)
    with checkout(tmp_path) as code:
        assert code.is_dir()
    listed = subprocess.run(["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, text=True)
    assert "on-a-stick" in listed.stdout
    assert "reproduce-killed" not in listed.stdout


def test_a_dirty_tree_changed_again_is_still_reproduced(restored):
    """Also where the run's own code has another setting than now, and the README an address that no run keeps."""
    project = restored
    project.edit("README.md", "\n## Sweep\n", "\nhttps://ann:secret@host\n\n## Sweep\n")
    (project.root / "pipeline/nn/scale.py").write_text("SCALE = 0.02\n")
    project.edit("pipeline/nn/net.py", "n_in)) * 0.01", "n_in)) * SCALE")
    imports = "import numpy as np\n"
    scale = "\nfrom pipeline.nn.scale import SCALE  # see https://host/page?v=2#scale\n"
    project.edit("pipeline/nn/net.py", imports, imports + scale)
    n_hidden = "    n_hidden: Annotated[int, whole(1)]\n"
    momentum = n_hidden + "    momentum: Annotated[float, FRACTION]\n"
    project.edit("pipeline/config.py", n_hidden, momentum)
    project.edit("conf/scratch/default.yaml", "\nn_hidden:", "\nmomentum: 0.9\nn_hidden:")
    run_id = project.train(*SCRATCH)
    assert project.tags(run_id)["git.dirty"] == "true"
    assert "git.left_out" not in project.tags(run_id)
    (project.root / "pipeline/nn/scale.py").write_text("SCALE = 0.5\n")
    project.edit("pipeline/config.py", momentum, n_hidden)
    project.edit("conf/scratch/default.yaml", "\nmomentum: 0.9\nn_hidden:", "\nn_hidden:")
    code, said = project.reproduce(run_id)
    assert (code, said.splitlines()[-1]) == (IDENTICAL, "identical"), said
    assert f"no training reads it: README.md ({SECRET})" in said
    code, said = project.reproduce("--here", run_id)
    assert code == DIFFERENT
    assert "scratch.momentum=0.9: no longer known, so left out" in said
    assert re.search(r"^W1: 200 of 200 weights differ, by up to [0-9.e-]+$", said, re.MULTILINE)
    assert re.search(r"^loss: differs from epoch 1 on, by up to", said, re.MULTILINE)


@pytest.mark.slow
def test_a_trial_of_a_sweep_is_reproduced_and_that_run_is_none_of_the_sweeps(project):
    project.do("python", "-m", "pipeline.train", "-m", *SCRATCH, "scratch.n_hidden=2,3")
    (run_id,) = project.made_with("n_hidden", "3")
    code, said = project.reproduce(run_id)
    assert (code, said.splitlines()[-1]) == (IDENTICAL, "identical"), said
    (again,) = set(project.made_with("n_hidden", "3")) - {run_id}
    assert not [tag for tag in project.tags(again) if tag == "mlflow.parentRunId" or tag.startswith("sweep")]


def test_one_altered_pixel_is_another_digest_and_the_older_data_are_found(project, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (200, 28, 28), np.uint8), rng.integers(0, 10, 200, np.uint8)
    train_csv, test_csv = tmp_path / "train.csv", tmp_path / "test.csv"
    mnist_csv.write(train_csv, X, y)
    mnist_csv.write(test_csv, X[:50], y[:50])
    own = (
        "net=scratch",
        "scratch.dataset=mnist",
        "scratch.epochs=2",
        "mnist.source=csv",
        f"mnist.train_csv={train_csv}",
        f"mnist.test_csv={test_csv}",
    )
    first = project.train(*own)
    X[7, 3, 3] ^= 1
    mnist_csv.write(train_csv, X, y)
    second = project.train(*own)
    assert project.tags(first)["data.md5"] != project.tags(second)["data.md5"]
    assert project.reproduce(first)[0] == IDENTICAL

    for run_id in (first, second):
        md5 = project.tags(run_id)["data.md5"]
        (project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    code, said = project.reproduce(first)
    assert code == MISSING
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"the run's data (md5 {project.tags(first)['data.md5']}) are neither in DVC's cache nor in its" in line
    assert "`dvc fetch --all-commits`" in line


def test_what_is_missing_is_named_and_ends_with_2(project, clean_run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    tags = project.tags(clean_run)

    def said_with(others):
        for tag, value in others.items():
            client.set_tag(clean_run, tag, value)
        code, said = project.reproduce(clean_run)
        for tag in others:
            client.set_tag(clean_run, tag, tags.get(tag, ""))
        assert code == MISSING
        assert len(said.strip().splitlines()) == 1
        return said

    assert "`git fetch --all`" in said_with({"git.commit": "1" * 40})
    said = said_with({"cpu": "Z80", "numpy": "1.0"})
    assert "cpu Z80 (here: " in said
    assert "numpy 1.0 (here: " in said
    assert "code.diff lacks what was changed in conf/a.yaml: " in said_with({"git.left_out": "conf/a.yaml"})


def test_changes_that_do_not_apply_are_named(project, clean_run, tmp_path):
    from mlflow import MlflowClient

    (tmp_path / "code.diff").write_text("no diff\n")
    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    client.log_artifact(clean_run, str(tmp_path / "code.diff"))
    code, said = project.reproduce(clean_run)
    assert code == MISSING
    assert said.splitlines()[-1].startswith(
        "error: the run's changes (code.diff) do not apply to its commit: error: "
    )


def test_an_unknown_run_is_one_line(project):
    code, said = project.reproduce("0" * 32)
    assert code == MISSING
    assert said.startswith(f"error: {'0' * 32}: the tracking store has no such run")
    assert len(said.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A project whose results were pushed to a remote in a folder, and a clone of it that has pulled them."""
    folder = tmp_path_factory.mktemp("published")
    project = copy_project(folder / "first")
    quick = (project.root / "conf/experiment/quick.yaml").read_text()
    project.edit("conf/config.yaml", "experiment: null", "experiment: quick")
    assert "override /mnist: digits" in quick
    for command in (
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", "quick"],
        ["dvc", "remote", "add", "-q", "-d", "store", str(folder / "remote")],
        ["dvc", "repro", "-q"],
        ["dvc", "push", "-q", "--run-cache"],
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", "results"],
        ["git", "clone", "-q", ".", str(folder / "second")],
    ):
        project.do(*command)
    clone = Project(folder / "second")
    clone.do("dvc", "pull", "-q", "--run-cache")
    return project, clone


def test_a_clone_with_a_remote_trains_nothing_and_reproduces_what_dvc_trained(published):
    project, clone = published
    for net in ("scratch", "keras"):  # as conf/experiment/quick.yaml says
        figures = json.loads((clone.root / f"data/reports/{net}_metrics.json").read_text())
        assert 0.86 <= figures["test_accuracy"] <= 0.90
    said = clone.do("dvc", "repro")
    assert "Running stage" not in said
    assert not (clone.root / "mlflow.db").exists()

    shutil.rmtree(project.root / ".dvc/cache")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "neural-nets"]
    runs = {run.data.params["net"]: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"scratch", "keras"}
    for run_id in runs.values():
        code, said = project.reproduce(run_id)
        assert (code, said.splitlines()[-1]) == (IDENTICAL, "identical"), said


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_of_a_dirty_tree_is_reproduced(published):
    _, clone = published
    clone.edit("pipeline/nn/net.py", "n_in)) * 0.01", "n_in)) * 0.02")
    clone.do("dvc", "exp", "run", "--temp", "-S", "scratch.n_hidden=3", "train_scratch")
    (run_id,) = clone.made_with("n_hidden", "3")
    assert clone.tags(run_id)["git.dirty"] == "true"
    clone.do("git", "checkout", "-q", "--", ".")
    code, said = clone.reproduce(run_id)
    assert (code, said.splitlines()[-1]) == (IDENTICAL, "identical"), said


@pytest.mark.slow
def test_a_keras_net_that_went_on_from_another_in_a_dirty_tree_is_reproduced(published):
    _, clone = published
    clone.edit("pipeline/train_keras.py", "import numpy as np\n", "import numpy as np\n\nHALF = 0.5\n")
    clone.edit("pipeline/train_keras.py", "settings.learning_rate", "HALF * settings.learning_rate")
    run_id = clone.train("net=keras", "mnist=digits", "keras.warm_start=true", "keras.epochs=1")
    tags = clone.tags(run_id)
    assert tags["git.dirty"] == "true"
    assert tags["initial.md5"]
    clone.edit("pipeline/train_keras.py", "HALF = 0.5", "HALF = 0.25")
    shutil.rmtree(clone.root / "data/runs")  # DVC's cache has the weights that it started from
    assert clone.reproduce(run_id)[0] == IDENTICAL
    code, said = clone.reproduce("--here", run_id)
    assert code == DIFFERENT
    assert re.search(r"^loss: differs from epoch 1 on, by up to", said, re.MULTILINE)
