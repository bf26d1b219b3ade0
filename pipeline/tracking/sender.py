"""The training's end of the courier: starts it, tells it what to bring, and hears what became of it."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.address import redact
from pipeline.command import one_line
from pipeline.tracking.records import Record
from pipeline.tracking.store import PATIENCE, SOURCE_ROOT, SYNC, is_server, kept, say_away, say_back

FIRST_ANSWER_SECONDS = 5.0  # at the end of a run: a server that has not answered by then is not waited for
STALLED_SECONDS = 30.0  # at the end of a run: so long without a step further, and the training waits no more
OWN = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI")  # variables that are not the courier's: each record names its store

log = logging.getLogger(__name__)


@dataclass
class Fate:
    """What the courier has said of a record.

    Attributes:
        run_id: the MLflow run; None: there is none yet.
        experiment_id: its experiment.
        asked: the store has been asked for the run.
        answered: it has.
        settled: the store has all of it, or cannot be reached, or the run was deleted there.
        away: why it cannot be reached; empty: it can.
        deleted: the run was deleted there.
        alone: nobody here waits to hear of it; the courier says what goes wrong.
        in_use: marks the ended record until it is settled.
    """

    run_id: str | None = None
    experiment_id: str | None = None
    asked: bool = False
    answered: bool = False
    settled: bool = False
    away: str = ""
    deleted: bool = False
    alone: bool = False
    in_use: BinaryIO | None = None


class Sender:
    """A courier, and what it said; every method returns at once, but for `wait` and `ask`."""

    def __init__(self, *, is_waited_for: bool = False) -> None:
        self.pid = os.getpid()
        self._fates: dict[str, Fate] = {}
        self._stores: dict[str, str] = {}
        self._away: set[str] = set()  # the stores that did not answer when last asked
        self._answer: dict[str, Any] | None = None
        self._news = threading.Condition()
        self._is_gone = False
        self._moved = time.monotonic()
        self._has_stalled = False
        environment = {name: value for name, value in os.environ.items() if name not in OWN}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.tracking.courier", *([] if is_waited_for else ["--nice"])],
                cwd=SOURCE_ROOT,
                env=PATIENCE | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:  # no process or no memory is left; the record needs neither
            self._is_gone = True
            self._why_not = f"the process that brings it cannot be started: {one_line(error)}"
            return
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def is_up(self) -> bool:
        """Return whether the courier lives."""
        return not self._is_gone

    def open(self, record: Record, uri: str, *, is_new: bool = False) -> None:
        """Have a record brought to a store from now on; `is_new`: no store can have it yet."""
        with self._news:
            self._fates[record.id] = Fate(run_id=record.delivered(redact(uri)).run_id)
            self._stores[record.id] = redact(uri)
        if self._process is None:
            self._tell(record.id, self._why_not)
        self._send({"open": str(record.folder), "uri": uri, "new": is_new})

    def end(self, record: Record, in_use: BinaryIO, *, alone: bool = False) -> None:
        """Say that nothing more will be written to a record.

        Args:
            record: that was opened.
            in_use: marks it until the courier is done with it.
            alone: this process ends without waiting for it.
        """
        with self._news:
            fate = self._fates[record.id]
            fate.settled = self._is_gone or fate.deleted or self._stores[record.id] in self._away
            fate.in_use, fate.alone = in_use, alone and not fate.away
        if fate.settled:
            in_use.close()
        self._send({"end": record.id, "alone": fate.alone})

    def fate(self, record: Record) -> Fate:
        """Return what is known of a record that was opened."""
        return self._fates[record.id]

    def wait(self, record: Record) -> Fate:
        """Return when the store has all of a record or cannot be reached, or if nothing moves for some seconds.

        A store that did not answer when last asked is not waited for: the courier tries again by itself. Nor is a
        courier that has said nothing since it was last waited for: the machine is busy with other things.
        """
        fate, store = self._fates[record.id], self._stores[record.id]
        with self._news:
            if not self._has_stalled:
                self._moved = time.monotonic()
            while not (fate.settled or self._is_gone or store in self._away) and self._seconds_left(record) > 0:
                self._news.wait(timeout=self._seconds_left(record))
            if not (fate.settled or self._is_gone or store in self._away):
                self._give_up(record.id)
        return fate

    def _give_up(self, record_id: str) -> None:
        """Say that the end of a record is not waited for any more."""
        store = self._stores[record_id]
        if self._is_silent(record_id):
            self._away.add(store)  # nor are the next runs to wait for it
            self._tell(record_id, "it has not answered within some seconds")
        elif not self._has_stalled:
            self._has_stalled = True
            log.info("%s: not all of the run is there yet; it is brought by a process that goes on by itself", store)

    def _seconds_left(self, record: Record) -> float:
        patience = FIRST_ANSWER_SECONDS if self._is_silent(record.id) else STALLED_SECONDS
        return self._moved + patience - time.monotonic()

    def _is_silent(self, record_id: str) -> bool:
        """Return whether a server has been asked for a run and has not answered."""
        fate = self._fates[record_id]
        return fate.asked and not fate.answered and is_server(self._stores[record_id])

    def ask(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Return the courier's answer to a call, see `calls`; None: the courier is gone."""
        self._answer = None
        self._send(order)
        with self._news:
            self._news.wait_for(lambda: self._answer is not None or self._is_gone)
        return self._answer

    def _send(self, order: dict[str, Any]) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is dead, as `_listen` says, which may have closed stdin
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.wait()  # it has only started the courier
        for line in self._process.stdout:
            with self._news:
                self._hear(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._is_gone = True
            for record_id, fate in self._fates.items():
                if fate.in_use:
                    fate.in_use.close()
                if not fate.settled:
                    self._tell(record_id, "the process that brings it has ended")
            self._news.notify_all()
        with contextlib.suppress(OSError):  # what it was still to be told
            self._process.stdin.close()
        self._process.stdout.close()

    def _hear(self, said: dict[str, Any]) -> None:
        self._moved = time.monotonic()
        self._has_stalled = False
        if "waiting" in said:
            log.info("%s: %d earlier records wait for it; %s", said["uri"], said["waiting"], SYNC)
            return
        if "result" in said:
            self._answer = said
            return
        fate, store = self._fates[said["record"]], self._stores[said["record"]]
        if "asked" in said:
            fate.asked = True
            return
        fate.answered = "away" not in said
        (self._away.discard if fate.answered else self._away.add)(store)
        if "run_id" in said:
            fate.run_id, fate.experiment_id = said["run_id"], said["experiment_id"]
        if "away" in said:
            fate.settled, fate.away = True, said["away"]
            self._tell(said["record"], fate.away)
        elif fate.away:
            fate.away = ""
            say_back(store)
        if "deleted" in said:
            fate.deleted = True
            if not fate.alone:
                log.warning("%s: %s; all of it stays in records/%s", store, said["deleted"], said["record"])
        fate.settled = "whole" in said or fate.deleted or (fate.settled and bool(fate.away))
        if fate.settled and fate.in_use:
            fate.in_use.close()

    def _tell(self, record_id: str, why: str) -> None:
        if not self._fates[record_id].alone:
            say_away(self._stores[record_id], why, kept(record_id))


_senders: list[Sender] = []


def sender(*, is_waited_for: bool = False) -> Sender:
    """Return the one of this process; it starts the courier, in a few milliseconds, if there is none.

    Args:
        is_waited_for: whether nothing else has more need of the processor; else, trainings come first.
    """
    if not _senders or _senders[-1].pid != os.getpid() or not _senders[-1].is_up:
        _senders[:] = [Sender(is_waited_for=is_waited_for)]
    return _senders[-1]
