"""No room on the disk, a folder that cannot be written, no permission: one line with the path; nothing is lost.

Root may write anywhere, and a tiny disk needs a mount: where a test cannot have what it needs, it is skipped, and
a limit on the size of files (RLIMIT_FSIZE), which anybody can set, stands for a full disk.
"""

import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import compose, trained
from pipeline.command import one_line
from pipeline.tracking.records import all_records

ROOT = Path(__file__).resolve().parents[2]
PR_CAPBSET_DROP = 24
OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root pass by permissions
FILE_LIMIT = 100_000  # bytes
DISK = 512  # kB
SMALL = ("synthetic.n_samples=300", "synthetic.n_train=200")
TRAINING = ("net=scratch", "scratch.epochs=2", *SMALL)


def as_a_user() -> None:
    """Give up, in a child that is about to start, root's right to pass by permissions."""
    if os.geteuid() == 0:
        for capability in OVERRIDES:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def with_small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


@pytest.fixture(autouse=True)
def counted(count_one) -> None:
    count_one("a disk without room, a folder or file without permission", "")


@pytest.fixture(scope="module")
def permissions(tmp_path_factory) -> None:
    """Skip the test where permissions bind nobody."""
    folder = tmp_path_factory.mktemp("locked")
    folder.chmod(0o555)
    if (
        subprocess.run(
            ["touch", folder / "x"], preexec_fn=as_a_user, stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    ):
        pytest.skip("root, and not allowed to give up its rights: permissions bind nobody here")


@pytest.fixture
def tiny_disk(tmp_path):
    """Return a function that mounts an empty disk of DISK kB on a folder; it skips the test where it may not."""
    mounted = []

    def mount(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a tiny disk; the tests with a limit on the size of files stand for it")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder that stages can run in: params.yaml and conf/, small."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    write_params(tmp_path, *SMALL)
    return tmp_path


def write_params(folder: Path, *overrides: str) -> None:
    (folder / "params.yaml").write_text(compose.run(ROOT / "conf", overrides))


@pytest.fixture
def stage(environment):
    """Return a function that runs a module of the pipeline in a folder: its exit code, and the lines that it said."""

    def run(folder: Path, module: str, *arguments: str, before=None, env=None) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.{module}", *arguments],
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT)} | (env or {}),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=before,
        )
        return done.returncode, (done.stdout + done.stderr).splitlines()

    return run


@contextlib.contextmanager
def locked(path: Path, mode: int = 0o555):
    """Take the right to write from a file or a folder."""
    earlier = path.stat().st_mode
    path.chmod(mode)
    yield
    path.chmod(earlier)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(said: tuple[int, list[str]], path: str, why: str) -> None:
    assert said == (1, [f"error: {path}: {why}"])


# ------------------------------------------------------------------------------- no room

TOO_LARGE = {
    "synthesize": ("data/loaded/synthetic.npz", 10_000),
    "fetch": ("data/raw/mnist_train.csv", FILE_LIMIT),
}


@pytest.mark.parametrize("module", TOO_LARGE)
def test_a_file_that_finds_no_room_is_one_line_and_the_earlier_one_stays(module, place, stage):
    path, limit = TOO_LARGE[module]
    write_params(place, "mnist=digits", *SMALL)
    assert stage(place, module)[0] == 0
    before = content(place)
    write_params(place, "mnist=digits", *SMALL, "synthetic.n_samples=400")
    before["params.yaml"] = (place / "params.yaml").read_bytes()
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    refused(stage(place, module, before=limited, env={"PYTHONDONTWRITEBYTECODE": "1"}), path, "File too large")
    assert content(place) == before


def test_params_that_find_no_room_are_one_line_and_none_stand_there(place, stage):
    (place / "params.yaml").unlink()
    before = content(place)
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    code, lines = stage(place, "compose", before=limited, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert (code, lines[-1]) == (1, "error: params.yaml: File too large")
    assert content(place) == before


def test_a_full_disk_is_one_line_and_the_earlier_output_stays(place, stage, tiny_disk):
    tiny_disk(place / "data/loaded")
    assert stage(place, "synthesize")[0] == 0
    before = content(place / "data")
    write_params(place, "synthetic.n_samples=5000")
    refused(stage(place, "synthesize"), "data/loaded/synthetic.npz", "No space left on device")
    assert content(place / "data") == before
    assert list((place / "data/loaded").glob(".*")) == []


def test_a_full_disk_leaves_neither_or_both_of_the_raw_csvs(place, stage, tiny_disk):
    tiny_disk(place / "data/raw")
    filler = place / "data/raw/filler"
    for n_free in (0, 300):  # kB; the two files need more
        filler.write_bytes(b"\1" * (DISK - n_free) * 1000)
        write_params(place, "mnist=digits", *SMALL)
        code, (line,) = stage(place, "fetch")
        assert code == 1
        assert line.startswith("error: data/raw/mnist_t")
        assert line.endswith(".csv: No space left on device")
        assert [path.name for path in (place / "data/raw").iterdir()] == ["filler"]


@pytest.mark.parametrize("n_free", [4, 40, 200])  # kB; the weights need 320
def test_a_trained_net_that_finds_no_room_leaves_the_earlier_whole(n_free, tmp_path, tiny_disk):
    tiny_disk(tmp_path / "runs")
    folder = tmp_path / "runs/scratch"
    trained.save(net_of(np.zeros((10, 10))), folder)
    before = content(tmp_path)
    filler = tmp_path / "runs/filler"
    filler.write_bytes(b"\1" * (DISK - 32 - n_free) * 1024)
    with pytest.raises(OSError, match="No space left on device") as caught:
        trained.save(net_of(np.ones((200, 200))), folder)
    assert one_line(caught.value) == f"{folder}: No space left on device"
    filler.unlink()
    assert content(tmp_path) == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["scratch"]


def net_of(W: np.ndarray) -> trained.Trained:
    return trained.Trained("scratch", "synthetic", ("tanh", "sigmoid"), {"W1": W}, {"loss": [0.5]}, "")


# ------------------------------------------------------------------------------- no permission

LOCKED = {
    "synthesize": ("data/loaded", "data/loaded/synthetic.npz"),
    "fetch": ("data/raw", "data/raw/mnist_train.csv"),
}


@pytest.mark.usefixtures("permissions")
@pytest.mark.parametrize("module", LOCKED)
def test_a_folder_that_cannot_be_written_is_one_line_and_the_earlier_output_stays(module, place, stage):
    folder, path = LOCKED[module]
    write_params(place, "mnist=digits", *SMALL)
    assert stage(place, module)[0] == 0
    write_params(place, "mnist=digits", *SMALL, "synthetic.n_samples=400")
    before = content(place)
    with locked(place / folder):
        refused(stage(place, module, before=as_a_user), path, "Permission denied")
    assert content(place) == before


@pytest.mark.usefixtures("permissions")
def test_a_project_that_cannot_be_written_is_one_line(place, stage):
    with locked(place):
        refused(stage(place, "synthesize", before=as_a_user), "data", "Permission denied")
    (place / "params.yaml").unlink()
    with locked(place):
        code, lines = stage(place, "compose", before=as_a_user)
    assert (code, lines[-1]) == (1, "error: params.yaml: Permission denied")


@pytest.mark.usefixtures("permissions")
@pytest.mark.parametrize("name", ["params.yaml", "mine.csv", "conf/config.yaml"])
def test_a_file_that_cannot_be_read_is_one_line(name, place, stage):
    (place / "mine.csv").write_text("5,0\n")
    write_params(place, "mnist.source=csv", "mnist.train_csv=mine.csv", "mnist.test_csv=mine.csv")
    with locked(place / name, 0o000):
        code, (line,) = stage(place, "compose" if "conf" in name else "fetch", before=as_a_user)
    assert code == 1
    assert name in line
    assert "Permission denied" in line
    assert not (place / "data").exists()


@pytest.mark.usefixtures("permissions")
def test_a_read_only_mount_is_one_line(place, stage, tiny_disk):
    tiny_disk(place / "data/loaded")
    assert stage(place, "synthesize")[0] == 0
    before = content(place / "data")
    subprocess.run(["mount", "-o", "remount,ro", place / "data/loaded"], check=True)
    write_params(place, *SMALL, "synthetic.n_samples=400")
    refused(stage(place, "synthesize"), "data/loaded/synthetic.npz", "Read-only file system")
    assert content(place / "data") == before


# ------------------------------------------------------------------------------- where runs go


@pytest.fixture
def train(stage, tmp_path, new_store):
    """Return a function that trains in a moment, in a store and with records of its own."""
    (tmp_path / "store").mkdir()
    uri = new_store(tmp_path / "store")

    def run(*arguments: str, before=None) -> tuple[int, list[str]]:
        own = {"PIPELINE_RECORDS": str(tmp_path / "records"), "MLFLOW_TRACKING_URI": uri}
        where = f"hydra.run.dir={tmp_path}/outputs/run"
        return stage(ROOT, "train", where, *TRAINING, *arguments, before=before, env=own)

    return run


@pytest.mark.usefixtures("permissions")
def test_an_output_folder_that_cannot_be_written_is_one_line(train, tmp_path):
    (tmp_path / "outputs").mkdir()
    with locked(tmp_path / "outputs"):
        code, lines = train(before=as_a_user)
    assert (code, lines) == (1, [f"error: Hydra cannot start: {tmp_path}/outputs/run: Permission denied"])
    assert not list((tmp_path / "records").glob("*/run.json"))


@pytest.mark.usefixtures("permissions")
def test_a_records_folder_that_cannot_be_written_is_one_line(train, tmp_path):
    (tmp_path / "records").mkdir()
    with locked(tmp_path / "records"):
        code, lines = train(before=as_a_user)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {tmp_path}/records/")
    assert lines[0].endswith(": Permission denied")


@pytest.mark.usefixtures("permissions")
def test_a_store_that_cannot_be_written_ends_no_training_and_is_told_in_one_line(train, tmp_path):
    with locked(tmp_path / "store"), locked(tmp_path / "store/mlflow.db", 0o444):
        code, lines = train(before=as_a_user)
    assert code == 0
    assert (tmp_path / "outputs/run/net/weights.npz").is_file()
    (record,) = all_records(tmp_path / "records")
    assert (record.folder / "artifacts/weights.npz").is_file()
    assert len([line for line in lines if "mlflow.db" in line and "cannot be reached" in line]) == 1


def test_records_that_find_no_room_are_one_line(train, tmp_path, tiny_disk):
    tiny_disk(tmp_path / "records")
    (tmp_path / "records/filler").write_bytes(b"\1" * (DISK - 4) * 1024)
    code, lines = train()
    told = [line for line in lines if "No space left on device" in line]
    assert code == 1
    assert len(told) == 1
    assert told[0].startswith(f"error: {tmp_path}/records/")
    assert not any("Traceback" in line for line in lines)
