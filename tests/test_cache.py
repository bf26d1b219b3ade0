"""DVC's cache by md5, in a real DVC repository with a remote in a folder."""

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


def test_what_nobody_has_is_none(root):
    assert cache.find("0" * 32, root) is None


def test_damaged_bytes_are_not_handed_out(root):
    cache.keep(ARRAYS, root)
    path = cache.find(cache.arrays_md5(ARRAYS), root)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert cache.find(cache.arrays_md5(ARRAYS), root) is None
