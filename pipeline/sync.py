"""`python -m pipeline.sync`: brings to MLflow the records of runs that it lacks, whole; done twice, nothing doubles.

A store lacks what was recorded while its server was away, or by a process that was killed. `--to URI` brings every
record on this disk to another store, `--from URI` the runs of another store to this one.
"""

import argparse
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.address import check_typed, reason
from pipeline.command import one_line, parsing_command
from pipeline.config import Settings
from pipeline.errors import DataError
from pipeline.tracking import tracking_uri
from pipeline.tracking.delivery import Destination, RunDeleted, deliver
from pipeline.tracking.ledger import lacking
from pipeline.tracking.records import Record, State
from pipeline.tracking.store import absolute, check_uri, records_folder
from pipeline.tracking.table import own_settings
from pipeline.tracking.witness import forget, still_has

SHORT_ID = 8
LOST = "it has lost what it had got (made anew, or restored from a backup); all is brought again"

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """How many records were brought, could not be, are still being written, or were deleted in the store."""

    brought: int = 0
    failed: int = 0
    in_use: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        """Return them as people read them."""
        told = [f"{self.brought} brought"]
        told += [f"{self.failed} could not be: done again, this goes on where it ended"] if self.failed else []
        told += [f"{self.in_use} left alone, as their process still works on them"] if self.in_use else []
        told += [f"{self.deleted} left alone, as their runs were deleted there"] if self.deleted else []
        return ", ".join(told)


def waiting(key: str, *, every: bool) -> list[Record]:
    """Return the records that a store lacks: the damaged ones, then parents, then the others; the oldest first.

    Args:
        key: the store's address without secrets.
        every: also those that were meant for another store.
    """
    found = [(record, _order(record)) for record in lacking(key) if every or record.meant_for in (key, None)]
    return [record for record, _ in sorted(found, key=lambda one: one[1])]


def _order(record: Record) -> tuple[bool, int, int]:
    try:
        opening = record.opening
        return opening.parent is not None, opening.start_time, record.begun
    except (DataError, OSError):
        return False, 0, 0


def run(records: list[Record], to: Destination) -> Counts:
    """Bring records to a store, a line each; one whose process is dead is ended first.

    Args:
        records: parents before their children.
        to: the store.
    """
    counts = Counts()
    for record in records:
        if record.is_in_use:
            counts.in_use += 1
            continue
        name = record.id[:SHORT_ID]
        try:
            name += f"  {record.opening.name}"
            died = record.end_if_dead()
            has = deliver(record, to)
            log.info("%s: %s", name, _told(record.state, died, str(has.run_id)))
        except RunDeleted as error:
            counts.deleted += 1
            log.info("%s: %s, and stays so", name, error)
        except DataError as error:
            counts.failed += 1
            log.warning("%s: %s", name, one_line(error))
        except Exception as error:  # of MLflow, the network or a database: the other records may still pass
            counts.failed += 1
            log.warning("%s: %s", name, reason(error))
        else:
            counts.brought += 1
    return counts


def _told(state: State, died: bool, run_id: str) -> str:
    return f"{'its process died: ' if died else ''}{state.status}, run {run_id}"


@parsing_command
def main() -> None:
    """Parse the command line, and exit with 1 if something could not be brought."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.sync", description=__doc__)
    parser.add_argument("--to", metavar="URI", help="bring every record to this store, whichever it was meant for")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="URI",
        help="bring the runs of this store, of the experiment of the same name",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="bring also what the store is noted to have: it was restored from a backup; what it has is not doubled",
    )
    given = parser.parse_args()
    check_typed(given.to, "--to")
    check_typed(given.source, "--from")
    settings = own_settings()
    uri = absolute(given.to) if given.to else tracking_uri(settings)
    check_uri(uri)
    to = Destination(uri)
    _forget_if_lost(to, again=given.again)
    n_lost = 0
    if given.source:
        records, n_lost = _imported(given.source, settings, to)
    else:
        records = waiting(to.key, every=bool(given.to))
    if not records and not n_lost:
        log.info("nothing waits for %s", to.key)
        _tell_of_others(to.key)
        return
    to.experiment_id(settings.tracking.experiment)  # if the store is away, that is one line
    counts = run(records, to)
    counts.failed += n_lost
    log.info("%s: %s", to.key, counts)
    if counts.failed:
        sys.exit(1)


def _forget_if_lost(to: Destination, *, again: bool) -> None:
    """Forget what a store has got if it has lost it, or if asked to; say where it cannot be asked."""
    try:
        if again or not still_has(to):
            log.info("%s: %s", to.key, "all is brought again" if again else LOST)
            forget(to.key)
    except Exception as error:  # of MLflow, the network or a database: what waits has its own line for that
        log.warning("%s: could not be asked whether it still has what it got (%s)", to.key, reason(error))


def _tell_of_others(key: str) -> None:
    """Say which other stores records wait for: an address may have been given to one command only."""
    meant = [(record, record.meant_for) for record in lacking(key)]
    stores = Counter(store for record, store in meant if store not in (key, None) and record.waits_for(str(store)))
    for store, n in stores.items():
        log.info("%d wait for %s: MLFLOW_TRACKING_URI=%s python -m pipeline.sync", n, store, store)


def _imported(source: str, settings: Settings, to: Destination) -> tuple[list[Record], int]:
    """Return those runs of another store that the destination lacks, as records, and how many were left out."""
    from pipeline.tracking.importing import import_runs

    uri = absolute(source) if "://" in source else f"sqlite:///{Path(source).absolute()}"
    imported, n_lost = import_runs(uri, settings.tracking.experiment, to.key, records_folder())
    return [record for record in imported if record.waits_for(to.key)], n_lost


if __name__ == "__main__":
    main()
