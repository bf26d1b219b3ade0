"""`python -m pipeline.tracking.courier [--nice]`: brings records to MLflow, so that no training waits for it.

A process beside the training, in a session of its own: it outlives Ctrl-C and the death of the training, whose runs
it then ends. It is told by lines of JSON on stdin which record goes where ({"open": folder, "uri": address,
"new": whether no store can have it yet}) and which has ended ({"end": id}), reads the rest from the records
themselves, and says on stdout what became of them:

    {"record": id, "run_id": id, "experiment_id": id}    the run is there
    {"record": id, "asked": true}                        the store is being asked for the run
    {"record": id, "moved": true}                        a step further
    {"record": id, "whole": true}                        the store has all of it
    {"record": id, "away": reason}                       the store does not answer, or refuses
    {"record": id, "deleted": text}                      the run was deleted there: nothing more is brought
    {"uri": address, "waiting": n}                       so many earlier records wait for that store

A training that does not wait for the end of a record ({"end": id, "alone": true}) hears no more of it: that a store
cannot be reached is then said on the training's stderr, once it is gone. The courier also answers calls, see
`calls`: {"call": name, ...} by {"result": ..., "log": lines}.
"""

import contextlib
import json
import logging
import os
import queue
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pipeline.address import reason
from pipeline.command import collect_rarely, one_line
from pipeline.errors import DataError
from pipeline.tracking.calls import answer_to, heard
from pipeline.tracking.delivery import Destination, RunDeleted, deliver
from pipeline.tracking.ledger import lacking
from pipeline.tracking.records import RUNNING, Record
from pipeline.tracking.store import kept, say_away

POLL_SECONDS = 0.5  # a live curve lags by this much
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds until a store that did not answer is asked again; it doubles
SLOW = 1.0  # seconds; a store that is known to be away takes less, as does a record that it refuses
LAST_TRIES = (0.0, 1.0, 4.0)  # seconds before each, once the training is gone
FREE_TRIES = 20  # each 50 ms
NICENESS = 15  # where processors are few, the training comes first

Say = Callable[[dict[str, Any]], None]
Orders = queue.Queue[dict[str, Any] | None]


@dataclass
class Store:
    """A destination, and when it is to be asked again if it did not answer."""

    to: Destination
    ask_at: float = 0.0
    wait: float = FIRST_WAIT
    counted: bool = False
    away: str = ""  # why it could not be reached when it last could not

    def answered(self) -> None:
        """Note that it did."""
        self.wait = FIRST_WAIT

    def was_away(self, why: str) -> None:
        """Note that it did not."""
        self.away = why
        self.ask_at = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, LONGEST_WAIT)


@dataclass
class Errand:
    """A record on its way, which it is marked by."""

    record: Record
    store: Store
    in_use: BinaryIO
    is_new: bool = False  # no store can have it yet
    run_id: str | None = None
    ended: bool = False  # nothing more will be written to it
    due: bool = False  # it is to be tried now, whenever its store was to be asked again
    alone: bool = False  # the training does not wait to hear of it


@dataclass
class Courier:
    """What is on its way.

    Attributes:
        say: tells the training.
        terminal: the training's stderr.
    """

    say: Say
    terminal: TextIO
    errands: dict[str, Errand] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)

    def take(self, order: dict[str, Any]) -> None:
        """Do what a line of stdin says."""
        if "unmarked" in order:  # and so not brought: `pipeline.sync` does that
            self.say({"record": Path(order["open"]).name, "away": order["unmarked"]})
        elif "open" in order:
            record = Record(Path(order["open"]))
            store = self.stores.setdefault(order["uri"], Store(Destination(order["uri"])))
            self.errands[record.id] = Errand(record, store, order["in_use"], is_new=order["new"])
        elif order.get("end") in self.errands:
            errand = self.errands[order["end"]]
            errand.ended = errand.due = True
            errand.alone = order["alone"]
        elif "call" in order:
            self.say(answer_to(order))

    def go_round(self) -> None:
        """Bring each record a step further, if its store is to be asked.

        One that takes seconds to fail is not asked for another record in the same round; that one comes first in the
        next, as the failure may be of the one record alone.
        """
        silent: list[Store] = []
        for record_id, errand in list(self.errands.items()):
            began = time.monotonic()
            if errand.store in silent or not (errand.due or began >= errand.store.ask_at):
                continue
            errand.due = False
            if not self._try(errand) and time.monotonic() - began > SLOW:
                silent.append(errand.store)
                self.errands[record_id] = self.errands.pop(record_id)

    def _try(self, errand: Errand) -> bool:
        """Return whether the store has answered."""
        record, store = errand.record, errand.store
        ended = errand.ended  # as of now: what is written from here on is brought by the next round
        if errand.run_id is None:
            self.say({"record": record.id, "asked": True})
        try:
            is_new, errand.is_new = errand.is_new, False  # an answer may be lost, and yet the run be there
            has = deliver(record, store.to, lambda: self.say({"record": record.id, "moved": True}), is_new=is_new)
            experiment_id = store.to.experiment_id(record.opening.experiment)
        except RunDeleted as error:  # nothing more goes there, and the store is there for others
            self.errands.pop(record.id).in_use.close()
            store.answered()
            self.say({"record": record.id, "deleted": str(error)})
            return True
        except Exception as error:  # MLflow, the network and the databases have too many to name
            store.was_away(reason(error))
            self.say({"record": record.id, "away": store.away})
            return False
        store.answered()
        if has.run_id != errand.run_id:
            errand.run_id = has.run_id
            self.say({"record": record.id, "run_id": has.run_id, "experiment_id": experiment_id})
        self._count(store)
        if ended:
            self.errands.pop(record.id).in_use.close()
            self.say({"record": record.id, "whole": True})
        return True

    def _count(self, store: Store) -> None:
        """Say once how many records of earlier times a store lacks."""
        if store.counted:
            return
        store.counted = True
        key = store.to.key
        waiting = sum(record.meant_for == key and not record.is_in_use for record in lacking(key))
        if waiting:
            self.say({"uri": key, "waiting": waiting})

    def finish(self) -> None:
        """End what the training, which is gone, has left open; bring all that can be brought in a few seconds."""
        for errand in self.errands.values():
            errand.in_use.close()  # it is used by nobody now, if not by another process
            errand.ended = True
            with contextlib.suppress(DataError, OSError):  # it is damaged, or the disk full; `pipeline.sync` tells
                _end(errand.record)
        for seconds in LAST_TRIES:
            if self.errands:
                time.sleep(seconds)
            for errand in self.errands.values():
                errand.due = True
            self.go_round()
            self._tell()

    def _tell(self) -> None:
        """Say on the terminal what the training has not waited to hear."""
        with heard() as lines:
            for errand in self.errands.values():
                if errand.alone:
                    say_away(errand.store.to.uri, errand.store.away, kept(errand.record.id))
        with contextlib.suppress(OSError, ValueError):  # it is closed
            self.terminal.writelines(f"{text}\n" for _, text in lines)
            self.terminal.close()


def _end(record: Record) -> None:
    """End a record whose process is gone, unless another one writes it too; its lock may be freed a bit later."""
    for _ in range(FREE_TRIES):
        if record.state.status != RUNNING or record.end_if_dead():
            return
        time.sleep(0.05)


def run(orders: Orders, courier: Courier) -> None:
    """Work until stdin ends.

    Args:
        orders: of stdin; None at its end.
        courier: that has nothing to do yet.
    """
    ended = False
    while not ended:
        waiting = [_next(orders, POLL_SECONDS if courier.errands else None)]
        while not orders.empty():
            waiting.append(orders.get())
        for order in waiting:
            ended = ended or order is None
            if order:
                courier.take(order)
        courier.go_round()
    courier.finish()


def _next(orders: Orders, seconds: float | None) -> dict[str, Any] | None:
    """Return the next order, None at the end, or an empty one if none has come in so many seconds."""
    try:
        return orders.get(timeout=seconds)
    except queue.Empty:
        return {}


def _warm_up() -> None:
    """Import now, beside the training, what the end of the first run would otherwise wait for."""
    import mlflow.pyfunc  # noqa: F401


def _read(orders: Orders, terminal: TextIO) -> None:
    """Put the orders of stdin; at its end let the terminal go, unless a record's fate may have to be told there.

    A record is marked at once, not after the imports: the training may be gone by then, and others would take it up.
    Nor do the imports go on for a training that has ended without an order, as its settings were wrong.
    """
    alone = has_orders = False
    try:
        for line in sys.stdin.buffer:
            has_orders = True
            order = json.loads(line)
            if "open" in order:
                _mark(order)
            alone = alone or order.get("alone", False)
            orders.put(order)
        if not has_orders:
            os._exit(0)
        if not alone:
            terminal.close()
    finally:  # whatever happened: without an end what was taken would be in use for ever
        orders.put(None)


def _mark(order: dict[str, Any]) -> None:
    """Mark the record of an order as in use, or note in the order why that cannot be."""
    try:
        order["in_use"] = Record(Path(order["open"])).use()
    except OSError as error:  # as many files are open as may be
        order["unmarked"] = one_line(error)


def _allow_many_files() -> None:
    """Allow as many open files as the system does: while a store is away, each record on its way holds one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Talk over stdin and stdout; nothing else is printed."""
    if os.fork():  # so that whoever ends a training's children, as joblib does at Ctrl-C, finds no courier among them
        os._exit(0)
    collect_rarely()
    if "--nice" in sys.argv[1:]:
        os.nice(NICENESS)
    _allow_many_files()
    warnings.simplefilter("ignore")
    logging.disable()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)  # what a library prints is no answer

    def say(answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the training is gone
            answers.write(json.dumps(answer) + "\n")

    orders: Orders = queue.Queue()
    threading.Thread(target=_read, args=(orders, terminal), daemon=True).start()
    _warm_up()
    run(orders, Courier(say, terminal))


if __name__ == "__main__":
    main()
