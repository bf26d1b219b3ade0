"""DVC's cache: bytes by their md5, in this project or in a remote of it."""

import logging
import tempfile
from pathlib import Path

from pipeline.address import redact
from pipeline.files import Arrays, file_md5, save_arrays

log = logging.getLogger(__name__)


def arrays_md5(arrays: Arrays) -> str:
    """Return the md5 that DVC gives the file that `save_arrays` makes of `arrays`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        save_arrays(path, arrays)
        return file_md5(path)


def keep(arrays: Arrays, root: Path) -> None:
    """Put the file that `save_arrays` makes of `arrays` into the cache of the project at `root`."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo, tempfile.TemporaryDirectory(dir=repo.tmp_dir) as folder:
        path = Path(folder, "arrays.npz")
        save_arrays(path, arrays)
        md5 = file_md5(path)
        repo.cache.local.add(str(path), repo.cache.local.fs, md5, hardlink=True)


def find(md5: str, root: Path) -> Path | None:
    """Return the file of that md5 in the cache of the project at `root`, after a look into its remote; or None."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # its list of missing files has no names: None
    with Repo(str(root)) as repo:
        path = Path(repo.cache.local.oid_to_path(md5))
        if not path.is_file() and repo.config["core"].get("remote"):
            log.info("%s: looking for it in DVC's remote", md5)
            try:
                repo.cloud.pull([HashInfo("md5", md5)])
            except (DvcException, ImportError, OSError) as error:  # ImportError: an extra of DVC's is missing
                log.warning("DVC's remote: %s", redact(str(error)))
    return path if path.is_file() and file_md5(path) == md5 else None
