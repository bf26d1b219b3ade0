"""Whether a store still has what is noted that it got: one that was made anew, or restored from a backup, has not.

One run is asked for, that of the record that ended last: any backup lacks it first. What a store has got is then
forgotten as a whole, for what is brought once more changes nothing there.
"""

from pipeline.tracking import ledger
from pipeline.tracking.delivery import Destination, run_noted
from pipeline.tracking.records import Delivered, Record, all_records
from pipeline.tracking.store import records_folder

ACTIVE = "active"


def still_has(to: Destination) -> bool:
    """Return whether a store has the run that it got last, as it got it or newer, or deleted; also if it got none.

    It has not as long as `forget` was begun and not ended, whatever it may have got in the meantime.

    A run that others go on with, as they do with a sweep from another machine, keeps its end in MLflow until it has a
    later one: only a store from before that end has an earlier one, or none.

    Args:
        to: the store.

    Raises:
        Exception: whatever MLflow raises where the store does not answer.
    """
    if ledger.is_dropping(to.key, records_folder()):
        return False
    record = ledger.newest(to.key, records_folder())
    if record is None:
        return True
    has = record.delivered(to.key)
    run = run_noted(to.client, str(has.run_id))
    if run is None:
        return False
    if run.info.lifecycle_stage != ACTIVE:
        return True
    return (run.info.end_time or 0) >= (has.ended[1] or 0) and _names(record, has) <= run.data.metrics.keys()


def _names(record: Record, has: Delivered) -> set[str]:
    """Return the metrics that were brought, not those that an evaluation has added to the record since."""
    return {name for points, behind in record.points() if behind <= has.offset for name in points.metrics}


def forget(key: str) -> None:
    """Forget what a store has got.

    Args:
        key: its address without secrets.
    """
    with ledger.dropped(key, records_folder()):
        for record in all_records():
            if record.delivered(key) != Delivered():
                with record.delivering():
                    record.save_delivered(key, Delivered())
