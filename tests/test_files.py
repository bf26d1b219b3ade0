"""Files are written whole or not at all, and equal content gives equal bytes."""

import numpy as np
import pytest

from pipeline import files
from pipeline.errors import DataError


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("earlier")

    def fail():
        with files.replacing(path) as new:
            new.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "stale.txt").write_text("stale")
    with files.replacing(folder) as new:
        new.mkdir()
        (new / "fresh.txt").write_text("fresh")
        assert (folder / "stale.txt").exists()
    assert [entry.name for entry in folder.iterdir()] == ["fresh.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_arrays_come_back_and_equal_arrays_give_equal_bytes(tmp_path):
    arrays = {"dense/kernel": np.arange(6.0).reshape(2, 3), "y": np.array([1, 2], np.uint8)}
    for name in ("a.npz", "b.npz"):
        files.save_arrays(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = files.load_arrays(tmp_path / "a.npz")
    assert list(loaded) == list(arrays)
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"hostile\.npz: an \.npz archive of plain arrays is needed"):
        files.load_arrays(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_broken_archive_is_refused(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"an \.npz archive of plain arrays is needed"):
        files.load_arrays(path)


def test_a_missing_archive_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="`dvc repro` makes it"):
        files.load_arrays(tmp_path / "missing.npz")


def test_digest_sees_name_shape_type_and_bytes():
    X = np.zeros((2, 2))
    digests = {
        files.arrays_sha256(arrays)
        for arrays in ({"a": X}, {"b": X}, {"a": X.reshape(4)}, {"a": X.astype(np.float32)}, {"a": X + 1})
    }
    assert len(digests) == 5
    assert files.arrays_sha256({"a": X, "b": X + 1}) == files.arrays_sha256({"b": X + 1, "a": X})


def test_md5_is_the_one_that_dvc_names_a_file_by(tmp_path):
    from dvc_data.hashfile.hash import file_md5
    from dvc_objects.fs.local import LocalFileSystem

    path = tmp_path / "file"
    path.write_bytes(b"\r\nbytes")
    assert files.file_md5(path) == file_md5(str(path), LocalFileSystem())
