"""What all tests share: they run in the project's root, and leave no run open in MLflow."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from bare import bare
from counted import pytest_terminal_summary
from filelock import FileLock
from repro_project import SMALL, STAGES, Project, ran

from pipeline.command import collect_rarely
from pipeline.config import Settings, parse

__all__ = ["pytest_terminal_summary"]

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Import as the commands do."""
    collect_rarely()


@pytest.fixture(autouse=True)
def no_run_is_left_open():
    yield
    if "mlflow" in sys.modules:
        import mlflow

        assert mlflow.active_run() is None


@pytest.fixture(scope="session", autouse=True)
def bare_process():
    """Keep from the tests' own process, too, what no command under test is to see."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell; Ctrl-C is tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    own = bare(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - own.keys():
            patch.delenv(name)
        for name, value in own.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Return the environment of a command under test: this virtualenv first, see `bare`."""
    own = bare(os.environ)
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
    own["DVC_SITE_CACHE_DIR"] = str(tmp_path_factory.mktemp("dvc"))
    own["PIPELINE_RECORDS"] = str(tmp_path_factory.mktemp("records"))
    return own


@pytest.fixture(scope="session")
def call(environment) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a command in a folder, and fails if its exit code is not the expected one."""

    def run(folder, *arguments, code=0, env=None):
        done = subprocess.run(
            arguments, cwd=folder, env=environment | (env or {}), capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def clone(call) -> Callable[[Path], Path]:
    """Return a function that makes a git clone of the working tree, uncommitted changes included, in a new folder."""

    def make(folder: Path) -> Path:
        listed = call(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")
        for name in filter(None, listed):
            if (ROOT / name).is_file():  # git lists a file that was deleted and not yet committed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        call(folder, "git", "init", "-q", "-b", "main")
        call(folder, "git", "config", "user.name", "A tester")
        call(folder, "git", "config", "user.email", "tester@example.com")
        commit_all(folder)
        return folder

    def commit_all(folder: Path) -> None:
        call(folder, "git", "add", "-A")
        call(folder, "git", "commit", "-q", "-m", "A clone of the working tree")

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that has a folder made, by the first of the processes of this test run that asks for it."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, done = base / name, base / f"{name}.done"
        with FileLock(f"{made}.lock"):
            if not done.exists():
                shutil.rmtree(made, ignore_errors=True)  # of a process in which it could not be made
                made.mkdir()
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory, made_once, clone, call) -> Project:
    """Return a clone with small settings, reproduced; nothing is committed since. Not to be changed."""

    def make(folder: Path) -> None:
        own = partial(call, env={"PIPELINE_RECORDS": str(folder / "records")})
        project = Project(clone(folder / "small"), own)
        for file, old, new in SMALL.values():
            project.edit(f"conf/{file}", old, new)
        call(project.root, "git", "commit", "-qam", "Small settings")
        assert ran(project.repro()) == STAGES

    made = made_once("reproduced", make) / "small"
    return Project(shutil.copytree(made, tmp_path_factory.mktemp("repro") / "small", symlinks=True), call)


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., Settings]:
    """Return a function that composes the project's conf/ with overrides: `settings_of("keras.units=8")`.

    Its `uri` is the store's address, past the check that refuses one with a password.
    """
    from pipeline import compose

    def settings(*overrides: str, uri: str | None = None) -> Settings:
        found = parse(yaml.safe_load(compose.run(ROOT / "conf", overrides)))
        return replace(found, tracking=replace(found.tracking, uri=uri)) if uri else found

    return settings


@pytest.fixture(scope="session")
def migrated_store(made_once, call) -> Path:
    """Return an MLflow database without a run: its migrations take seconds, a copy of it none.

    It is in WAL mode, and so are its copies, as are the stores of this project.
    """

    def make(folder: Path) -> None:
        script = "import mlflow; mlflow.MlflowClient('sqlite:///mlflow.db')"
        call(folder, sys.executable, "-c", script)
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)

    return made_once("migrated", make) / "mlflow.db"


@pytest.fixture(scope="session")
def new_store(migrated_store) -> Callable[[Path], str]:
    """Return a function that makes an empty MLflow store in a folder, and returns its address."""

    def make(folder: Path) -> str:
        with (
            contextlib.closing(sqlite3.connect(migrated_store)) as source,
            contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as copy,
        ):
            source.backup(copy)
        return f"sqlite:///{folder / 'mlflow.db'}"

    return make


@pytest.fixture(scope="module")
def own_tracking(tmp_path_factory):
    """Keep what open_store tells MLflow, and through MLFLOW_TRACKING_URI its children, from other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_LOGGING_LEVEL", "WARNING")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.setenv("MLFLOW_TRACKING_URI", "")  # that it is unset afterwards, whoever sets it
        patch.delenv("MLFLOW_TRACKING_URI")
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("PIPELINE_RECORDS", str(tmp_path_factory.mktemp("records")))
        yield
        if "mlflow" in sys.modules:
            import mlflow

            mlflow.set_tracking_uri(None)
