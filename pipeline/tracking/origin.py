"""Where a run comes from: by whom, with which code, settings and machine; git is asked beside the training."""

import functools
import getpass
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline import lineage
from pipeline.address import holds_secret, redact
from pipeline.lineage import Code
from pipeline.tracking.records import Record

log = logging.getLogger(__name__)


@functools.cache
def own_code() -> Code:
    """Return this checkout's code as it was when the process first asked: what it has loaded, not later edits."""
    return lineage.read_code()


class Beside(threading.Thread):
    """Work that is done beside the training, and whose failure does not end it."""

    def __init__(self, work: Callable[[], object], *, is_quiet: bool = False) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._is_quiet = is_quiet
        self.start()

    def run(self) -> None:
        """Do it; warn if that fails."""
        try:
            self._work()
        except Exception as error:
            if not self._is_quiet:
                log.warning("the run's lineage is not known: %s", redact(str(error)))


def add_lineage(record: Record, code: Code | None, tags_of: Callable[[Code], dict[str, str]]) -> None:
    """Add to a record where its run comes from; of this checkout git is asked, which takes tens of milliseconds.

    Args:
        record: of a run.
        code: that made it; None: this checkout's.
        tags_of: gives its lineage, of the code.
    """
    if code is None:
        code = own_code()
        _tell_left_out(lineage.named(code.left_out))
    for name, text in ((lineage.DIFF_FILE, code.diff), (lineage.LOCK_FILE, code.lock)):
        if text and not holds_secret(text):  # dvc.lock may; the diff is without
            record.write_text(name, text)
    record.change(tags_of(code) | {"mlflow.source.git.commit": code.commit})


@functools.cache  # once, however many runs a process has
def _tell_left_out(names: str) -> None:
    if names:
        log.warning(
            "not in the run's %s, so that `reproduce` would miss it: %s; mend it, move it out of the code or "
            "into .gitignore",
            lineage.DIFF_FILE,
            names,
        )


def source() -> dict[str, str]:
    """Return what MLflow's own client says of every run: who, by which program."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
