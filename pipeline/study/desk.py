"""What the jobs of a grid ask and tell: it stands on the disk of the machine that the grid was started on."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pipeline import tracking, trained
from pipeline.address import redact
from pipeline.config import Settings
from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.study import trial
from pipeline.study.trial import Outcome, Row

RESULTS = Path("studies/results")  # a file for each training that can be reused
NET = "net"  # in a trial's folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """A job of a grid that has ended.

    Attributes:
        number: from 0.
        folder: the name of its folder.
        outcome: how it ended.
        key: under which others find its result; None: nobody shall.
        store: where its run is, see `store_of`.
        net: the files of the trained net, where they are not on this disk.
    """

    number: int
    folder: str
    outcome: Outcome
    key: str | None = None
    store: str = ""
    net: Mapping[str, bytes] | None = None


class Desk(Protocol):
    """What a job asks and tells."""

    def inputs(self, settings: Settings) -> tuple[str | None, str | None]:
        """Return the md5s of the data and of the first weights that are to be brought; None: they are here."""

    def reused(self, settings: Settings, key: str, overrides: Sequence[str]) -> Outcome | None:
        """Return the outcome of the earlier training of that key, if its net is still there and in the same store."""

    def ended(self, folder: str) -> Outcome | None:
        """Return how a job of this sweep has ended, by its folder's name, if it has: its node died afterwards."""

    def keep(self, done: Done, folder: Path) -> list[Row]:
        """Keep how a job ended in a folder of its disk; return all that have."""


@dataclass(frozen=True)
class Own:
    """The desk of jobs whose disk it is.

    Attributes:
        folder: of the sweep.
        sweep_id: the record of its parent.
        keys: what varies.
    """

    folder: Path
    sweep_id: str | None
    keys: tuple[str, ...]

    def inputs(self, settings: Settings) -> tuple[str | None, str | None]:
        """Return that all is here."""
        return None, None

    def reused(self, settings: Settings, key: str, overrides: Sequence[str]) -> Outcome | None:
        """Return the outcome of the earlier training of that key, if its net is still there and in the same store."""
        from pipeline.train import objective_of

        kept = trial.load(RESULTS / key) if settings.tracking.reuse else None
        if kept is None or kept["store"] != store_of(settings):
            return None
        try:
            result = trained.load(Path(kept["place"]) / NET)
        except (DataError, OSError):
            return None
        if result.weights_sha256 != kept["weights_sha256"]:  # another training has been there since
            return None
        log.info(
            "reused, as settings, data and code are the same: %s (tracking.reuse=false trains anew)", kept["place"]
        )
        value = objective_of(settings, result)  # which may be another objective than that of the earlier grid
        return replace(trial.outcome_from(kept), value=value, overrides=tuple(overrides), reused=True)

    def ended(self, folder: str) -> Outcome | None:
        """Return how a job of this sweep has ended, by its folder's name, if it has: its node died afterwards."""
        kept = trial.load(self.folder / folder)
        return trial.outcome_from(kept) if kept and kept.get("sweep") == self.sweep_id else None

    def keep(self, done: Done, folder: Path) -> list[Row]:
        """Keep how a job ended; return all that have. Its folder is one of the sweep's."""
        from filelock import FileLock

        outcome, folder = done.outcome, self.folder / done.folder
        if done.net is not None:
            with replacing(folder / NET) as new:
                new.mkdir()
                for name, content in done.net.items():
                    (new / name).write_bytes(content)
        if done.key and outcome.state == trial.COMPLETE and not outcome.reused:
            trial.save(outcome, RESULTS / done.key, place=str(folder.absolute()), store=done.store)
        with FileLock(self.folder / ".lock"):  # so that of two that end at once each has its own count
            trial.save(outcome, folder, number=done.number, sweep=self.sweep_id)
            return rows_of(self.folder, self.sweep_id, self.keys)


def store_of(settings: Settings) -> str:
    """Return where a run of these settings goes: the store and the experiment."""
    return f"{redact(tracking.tracking_uri(settings))} {settings.tracking.experiment}"


def rows_of(folder: Path, sweep_id: str | None, keys: Iterable[str]) -> list[Row]:
    """Return the trials of a sweep whose outcomes stand in the folders of its jobs, each with what varies."""
    kept = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob(f"*/{trial.FILE}")]
    kept = [(path, one) for path, one in kept if one.get("sweep") == sweep_id]
    kept.sort(key=lambda one: int(one[1]["number"]))
    return [_row(path, one, keys) for path, one in kept]


def _row(folder: Path, kept: Mapping[str, Any], keys: Iterable[str]) -> Row:
    given = dict(text.lstrip("+").partition("=")[::2] for text in kept["overrides"])
    params = {key: given[key] for key in keys if key in given}
    return Row(kept["number"], params, trial.outcome_from(kept), folder)
