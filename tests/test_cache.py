"""DVC's cache by md5, in a real DVC repository with a remote in a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache
from pipeline.files import file_md5, load_arrays, save_arrays

ARRAYS = {"X_train": np.arange(12.0).reshape(3, 4)}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    dvc = str(Path(sys.executable).with_name("dvc"))
    subprocess.run([dvc, "init", "-q", "--no-scm"], cwd=root, check=True)
    subprocess.run([dvc, "remote", "add", "-q", "-d", "store", str(tmp_path / "remote")], cwd=root, check=True)
    return root


def test_md5_is_that_of_the_file(tmp_path):
    save_arrays(tmp_path / "arrays.npz", ARRAYS)
    assert cache.arrays_md5(ARRAYS) == file_md5(tmp_path / "arrays.npz")


def test_what_was_kept_is_found(root):
    cache.keep(ARRAYS, root)
    path = cache.find(cache.arrays_md5(ARRAYS), root)
    assert np.array_equal(load_arrays(path)["X_train"], ARRAYS["X_train"])


def test_what_only_the_remote_has_is_brought(root, tmp_path):
    md5 = cache.arrays_md5(ARRAYS)
    save_arrays(tmp_path / "remote/files/md5" / md5[:2] / md5[2:], ARRAYS)
    assert file_md5(cache.find(md5, root)) == md5


def test_what_was_pushed_is_in_the_remote(root, tmp_path):
    md5 = cache.arrays_md5(ARRAYS)
    cache.keep(ARRAYS, root)
    cache.push(md5, root)
    assert file_md5(tmp_path / "remote/files/md5" / md5[:2] / md5[2:]) == md5


def test_a_remote_that_takes_nothing_is_one_line(root, tmp_path, caplog):
    (tmp_path / "remote").write_text("a file where a folder must be")
    cache.keep(ARRAYS, root)
    cache.push(cache.arrays_md5(ARRAYS), root)
    (message,) = caplog.messages
    assert message.startswith("DVC's remote cannot be used: ")


def test_what_nobody_has_is_none(root):
    assert cache.find("0" * 32, root) is None


def test_damaged_bytes_are_not_handed_out(root):
    cache.keep(ARRAYS, root)
    path = cache.find(cache.arrays_md5(ARRAYS), root)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert cache.find(cache.arrays_md5(ARRAYS), root) is None


STAGE = """
import sys
from pathlib import Path
from pipeline.cache import earlier_outputs

with earlier_outputs():
    told = Path("told.txt").read_text()
    if told == "interrupt":
        raise KeyboardInterrupt
    if told == "fail":
        raise ValueError(told)
    Path("folder").mkdir()
    Path("folder/a").write_text(told)
    Path("figure.json").write_text('{"told": 1}')
"""


@pytest.fixture
def stage(root):
    """Return a function that runs a DVC stage with these words, and returns whether it did and what was said."""
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(
        f"stages:\n  one:\n    cmd: {sys.executable} stage.py\n    deps: [told.txt]\n"
        "    outs: [folder]\n    metrics: [figure.json]\n"
    )

    def run(told):
        (root / "told.txt").write_text(told)
        command = [sys.executable, "-m", "dvc", "repro"]
        environment = os.environ | {"PYTHONPATH": str(Path(cache.__file__).parents[1])}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("told", ["fail", "interrupt"])
def test_a_stage_that_fails_leaves_its_earlier_outputs(stage, root, told):
    ended_well, said = stage("first")
    assert ended_well, said
    ended_well, said = stage(told)
    assert not ended_well
    assert "not back" not in said
    assert (root / "folder/a").read_text() == "first"
    assert (root / "figure.json").read_text() == '{"told": 1}'
    assert stage("second")[0]
    assert (root / "folder/a").read_text() == "second"


def test_a_stage_that_fails_at_first_leaves_nothing(stage, root):
    ended_well, said = stage("fail")
    assert not ended_well
    assert "not back" not in said
    assert not (root / "folder").exists()


def test_outputs_that_the_cache_has_lost_are_told(stage, root):
    ended_well, said = stage("first")
    assert ended_well, said
    shutil.rmtree(root / ".dvc/cache")
    ended_well, said = stage("fail")
    assert not ended_well
    assert "the earlier outputs of one are not back: " in said
    assert not (root / "folder").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Forbidden"), cache.NOT_LET_IN),
        (OSError(22, "Bad Request"), cache.NOT_LET_IN),
        (RuntimeError("Unable to locate credentials"), cache.NOT_LET_IN),
        (RuntimeError('Could not connect to the endpoint URL: "http://h/b"'), "it cannot be connected to"),
        (RuntimeError("what no one expected of s3://ann:secret@bucket"), "what no one expected of s3://bucket"),
    ],
)
def test_a_remote_that_cannot_be_used_is_one_line_whatever_its_client_raises(root, caplog, monkeypatch, error, told):
    def pull(*_):
        raise error

    line = f"DVC's remote cannot be used: {told}"
    monkeypatch.setattr("dvc.data_cloud.DataCloud.pull", pull)
    assert cache.find("0" * 32, root) is None
    assert cache.find("1" * 32, root) is None
    assert caplog.messages.count(line) == 1
    monkeypatch.setattr(cache, "AWAY_SECONDS", 0.0)
    assert cache.find("1" * 32, root) is None
    assert caplog.messages.count(line) == 2
