"""DVC's cache: bytes by their md5, in this project or in a remote of it."""

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.address import reason, redact
from pipeline.files import Arrays, file_md5, save_arrays

REFUSED = ("Forbidden", "Bad Request", "Access Denied", "Unable to locate credentials", "InvalidAccessKeyId")
NOT_LET_IN = "its credentials are missing, wrong or expired"  # S3 answers an expired token with no more than 400
AWAY_SECONDS = 60.0  # a remote that could not be used is not asked again for so long: each time may take 15 s

_failed_at: dict[Path, float] = {}  # by project, as time.monotonic() counts

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


def push(md5: str, root: Path) -> None:
    """Bring a file from the cache of the project at `root` to its remote, if it has one and that lacks it.

    Where that fails, it is said in one line: whoever needs the file may still have it.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    with Repo(str(root)) as repo:
        if repo.config["core"].get("remote"):
            try:
                repo.cloud.push([HashInfo("md5", md5)])
            except Exception as error:  # of DVC, an extra that is missing, or the store's own client
                log.warning("DVC's remote cannot be used: %s", _told(error))


def find(md5: str, root: Path) -> Path | None:
    """Return the file of that md5 in the cache of the project at `root`, after a look into its remote; or None.

    Of several processes that want it at once, one brings it, and the others wait. A remote that cannot be used is
    told in one line, and is not asked again for AWAY_SECONDS.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from filelock import FileLock

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # its list of missing files has no names: None
    with Repo(str(root)) as repo:
        path = Path(repo.cache.local.oid_to_path(md5))
        is_away = time.monotonic() - _failed_at.get(root, -math.inf) < AWAY_SECONDS
        if not path.is_file() and repo.config["core"].get("remote") and not is_away:
            with FileLock(Path(repo.tmp_dir, f"{md5}.lock")):
                if not path.is_file():
                    log.info("%s: looking for it in DVC's remote", md5)
                    try:
                        repo.cloud.pull([HashInfo("md5", md5)])
                    except Exception as error:  # of DVC, an extra that is missing, or the store's own client
                        _failed_at[root] = time.monotonic()
                        log.warning("DVC's remote cannot be used: %s", _told(error))
    return path if path.is_file() and file_md5(path) == md5 else None


@contextlib.contextmanager
def earlier_outputs() -> Iterator[None]:
    """Let a stage of DVC's that fails leave its earlier outputs standing, which DVC has removed before it ran it."""
    try:
        yield
    except BaseException:
        if "DVC_STAGE" in os.environ:
            _bring_back(os.environ["DVC_STAGE"], Path(os.environ["DVC_ROOT"]))
        raise


def _bring_back(stage: str, root: Path) -> None:
    """Bring the outputs of a stage that dvc.lock names and that are away from the cache, as far as they are in it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            for found in repo.stage.collect(stage):
                for out in found.outs:
                    if out.hash_info and not out.exists:
                        out.checkout(force=True)
    except (DvcException, OSError) as error:
        log.warning("the earlier outputs of %s are not back: %s", stage, redact(str(error)))


def _told(error: Exception) -> str:
    """Return in a few words why a remote cannot be used."""
    text = str(error)
    return NOT_LET_IN if any(sign in text for sign in REFUSED) else reason(error)
