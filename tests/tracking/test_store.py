"""The database of a SQLite store: in WAL mode wherever that is right, whoever made it."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from pipeline.tracking.store import is_on_local_disk, open_experiment

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]
MOUNTS = r"""
/dev/vda / ext4 rw,relatime 0 0
server:/home {tmp}/nfs nfs4 rw,vers=4.2 0 0
//host/share {tmp}/with\040blank cifs rw 0 0
sshfs {tmp}/fuse fuse.sshfs rw 0 0
/dev/sdb1 {tmp}/stick fuseblk rw 0 0
/dev/sdc1 {tmp}/nfs/inner xfs rw 0 0
server:/old {tmp}/hidden nfs rw 0 0
/dev/sdd1 {tmp}/hidden ext4 rw 0 0
"""


def set_mode(database: Path, mode: str = "") -> str:
    """Put a database into a mode, if one is given; return the mode that it is in."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"PRAGMA journal_mode{'=' * bool(mode)}{mode}").fetchone()[0]


@pytest.fixture
def old(new_store, tmp_path) -> Path:
    """A store as MLflow itself makes one: not in WAL mode."""
    new_store(tmp_path)
    assert set_mode(tmp_path / "mlflow.db", "delete") == "delete"
    return tmp_path / "mlflow.db"


def test_a_store_that_mlflow_has_made_is_put_into_wal_mode_and_stays_whole(old):
    before = open_experiment(f"sqlite:///{old}", "neural-nets")
    assert set_mode(old) == "wal"
    assert open_experiment(f"sqlite:///{old}", "neural-nets") == before


def test_a_store_that_is_being_read_is_opened_all_the_same_and_is_put_into_wal_mode_the_next_time(old, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("pipeline.tracking.store.is_on_local_disk", lambda folder: False)
        open_experiment(f"sqlite:///{old}", "neural-nets")
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM experiments").fetchall()
        open_experiment(f"sqlite:///{old}", "neural-nets")
        reader.execute("COMMIT")
    assert set_mode(old) == "delete"
    open_experiment(f"sqlite:///{old}", "neural-nets")
    assert set_mode(old) == "wal"


def test_a_store_on_a_networks_disk_keeps_its_mode(old, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.store.is_on_local_disk", lambda folder: False)
    open_experiment(f"sqlite:///{old}", "neural-nets")
    assert set_mode(old) == "delete"


@pytest.mark.parametrize(
    ("folder", "is_local"),
    [
        (".", True),
        ("nfs", False),
        ("nfs/below/it", False),
        ("nfs/inner", True),
        ("nfs2", True),
        ("with blank", False),
        ("fuse", False),
        ("stick", True),
        ("hidden", True),
    ],
)
def test_a_disk_is_local_unless_the_nearest_mount_is_a_networks(folder, is_local, tmp_path):
    (tmp_path / "mounts").write_text(MOUNTS.strip().replace("{tmp}", str(tmp_path.resolve())))
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    assert is_on_local_disk(tmp_path / folder, tmp_path / "mounts") == is_local


def test_a_link_to_a_networks_disk_is_followed(tmp_path):
    (tmp_path / "mounts").write_text(MOUNTS.strip().replace("{tmp}", str(tmp_path.resolve())))
    (tmp_path / "nfs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nfs")
    assert not is_on_local_disk(tmp_path / "link", tmp_path / "mounts")
    assert is_on_local_disk(tmp_path, tmp_path / "none")
