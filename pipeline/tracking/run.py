"""One training as one run: its record on disk, which the courier brings to MLflow while it grows."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Self

import numpy as np

from pipeline import lineage, paths
from pipeline.address import redact
from pipeline.command import one_line
from pipeline.config import Settings
from pipeline.errors import DataError, Pruned
from pipeline.lineage import Code, Inputs
from pipeline.tracking.models import drop_model, has_parts, keep_keras, keep_scratch
from pipeline.tracking.naming import SETTINGS_FILE, run_name, run_params, settings_text
from pipeline.tracking.origin import Beside, add_lineage, own_code, source
from pipeline.tracking.pages import page_of
from pipeline.tracking.records import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    Opening,
    PointsWriter,
    Record,
    find_record,
    now,
)
from pipeline.tracking.sender import Fate, sender
from pipeline.tracking.store import ON_NODE, SOURCE_ROOT, check_uri, store_root, tracking_uri
from pipeline.trained import Trained

PER_CLASS_FILE = "per_class.json"
NO_TAGS: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """What a run has as one of many.

    Attributes:
        parent: the record id of the run that it is part of. The end of a part does not wait for MLflow, but on a
            cluster's node: what is told of it must not be lost with the node.
        tags: further ones.
        record_id: of its own record; None: a new one.
    """

    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    record_id: str | None = None


ALONE = Member()


class Run:
    """One run. What it is given stands in its record when the call returns; the courier brings it to MLflow.

    Attributes:
        record_id: names the record, see `records_folder`.
    """

    def __init__(
        self, record: Record, settings: Settings, in_use: BinaryIO | None = None, *, is_new: bool = False
    ) -> None:
        self.record_id = record.id
        self._record = record
        self._settings = settings
        self._in_use = in_use or record.use()
        self._points = PointsWriter(record)
        self._disk_is_full = False
        self._is_last = False
        self._sender = sender()
        self._sender.open(record, tracking_uri(settings), is_new=is_new)

    @property
    def run_id(self) -> str | None:
        """Return the id of the MLflow run; None as long as the store has not been reached."""
        return self._fate.run_id

    @property
    def _fate(self) -> Fate:
        return self._sender.fate(self._record)

    def shown_at(self) -> str:
        """Return where MLflow shows the run, as a line for the terminal."""
        fate = self._fate
        if fate.run_id is None or fate.experiment_id is None:
            return f"not yet; records/{self.record_id} has it, and `python -m pipeline.sync` brings it"
        return page_of(self._settings, fate.experiment_id, fate.run_id)

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an epoch, counted from 0. MLflow's step is epoch + 1."""
        self._append(epoch + 1, metrics)

    def _append(self, step: int, metrics: Mapping[str, float]) -> None:
        self._points.append(step, metrics)
        if not self._points.flush() and not self._disk_is_full:
            self._disk_is_full = True
            log.warning("%s: cannot be written; its points wait until it can", self._record.folder / "metrics.jsonl")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._record.change(tags)

    def log_text(self, text: str, name: str) -> None:
        """Write a text as an artifact, over the one that had the name."""
        self._record.write_text(name, text)

    def log_trained(
        self,
        result: Trained,
        folder: Path,
        settings: Settings,
        *,
        example: np.ndarray,
        model: Any = None,
        with_model: bool = True,
    ) -> None:
        """Add what a training left: its files, and the model itself.

        Args:
            result: the trained net.
            folder: where `trained.save` has written it.
            settings: all settings, as they were.
            example: (2, d) rows of the net's input, for the model's signature.
            model: the `keras.Model` of a Keras net.
            with_model: whether MLflow gets a model; if not, `log_model_of` may make it later.
        """
        self.log_files(result, folder, settings_text(settings, result.net))
        if model is None:
            keep_scratch(self._record, result, example)
        else:
            keep_keras(self._record, model, example)
        self._record.change(model=with_model)

    def log_files(self, result: Trained, folder: Path, settings: str) -> None:
        """Add weights, history, summary and settings; the digest of the weights becomes the tag `weights_sha256`."""
        for path in sorted(folder.iterdir()):
            self._record.write_artifact(path.name, path.read_bytes())
        self.log_text(settings, SETTINGS_FILE)
        self.set_tags({"weights_sha256": result.weights_sha256})

    def log_report(
        self,
        metrics: Mapping[str, float],
        images: Mapping[str, bytes],
        per_class: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Add what an evaluation found.

        Args:
            metrics: of all classes, by name.
            images: pictures as PNG, by name.
            per_class: figures by class; a file of the run, as thirty charts more would hide the others.
        """
        self._append(0, metrics)
        for name, png in images.items():
            self._record.write_artifact(f"pictures/{name}.png", png)
        if per_class is not None:
            self.log_text(per_class_text(per_class), PER_CLASS_FILE)

    def leave(self) -> None:
        """Have the end not wait for MLflow: the process ends next, and the courier says where it brings not all.

        In one of DVC's copies of the project it does wait: with the copy, DVC removes what the courier runs on.
        """
        self._is_last = store_root().resolve() == SOURCE_ROOT

    def end(self, status: str = FINISHED, tags: Mapping[str, str] = NO_TAGS, *, wait: bool = True) -> None:
        """End the run. If the disk is full that is said, and is no error: what was trained is no worse for it.

        Args:
            status: FINISHED, FAILED or KILLED.
            tags: the last ones.
            wait: return only when MLflow has all of it, or cannot be reached.
        """
        with _warned():
            self._record.change(tags, status=status, end_time=now())
        self.let_go(wait=wait)

    def let_go(self, *, wait: bool) -> None:
        """Write no more, and have the rest brought."""
        with _warned():
            self._points.close()
        self._sender.end(self._record, self._in_use, alone=self._is_last)
        if wait and not self._is_last:
            self._sender.wait(self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.end(*_ending(error))


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Say what of a run's end could not be written, and where, and go on."""
    try:
        yield
    except OSError as error:
        log.warning("%s: the end of the run is not in its record", one_line(error))


def per_class_text(per_class: Mapping[str, Mapping[str, float]]) -> str:
    """Return figures by class as the file of a run holds them."""
    return json.dumps(per_class, indent=2) + "\n"


def _ending(error: BaseException | None) -> tuple[str, dict[str, str]]:
    """Return the status of a run that this error has ended, and the tags that say why."""
    if error is None:
        return FINISHED, {}
    if isinstance(error, Pruned):
        return KILLED, {"pruned": "true"}
    status = KILLED if isinstance(error, KeyboardInterrupt) else FAILED
    return status, {"error": f"{type(error).__name__}: {error}"}


def prepare() -> None:
    """Start beside all else what a run will need: the courier, and the look at the code, which asks git.

    Called first thing, it has been done by the time that the data are there; else `start_run` does it.
    """
    sender()
    Beside(own_code, is_quiet=True)  # start_run asks again, and tells


def start_run(
    settings: Settings,
    net: str,
    inputs: Inputs,
    overrides: Sequence[str] = (),
    *,
    code: Code | None = None,
    member: Member = ALONE,
) -> contextlib.AbstractContextManager[Run]:
    """Return the run of one training, to be opened by `with`.

    It ends FINISHED, FAILED with its error as a tag, or KILLED (Ctrl-C). A trial that its sweep has stopped
    (`errors.Pruned`) ends KILLED, with the tag `pruned`.

    Args:
        settings: all settings; those that `net` uses become params.
        net: scratch or keras.
        inputs: the data that it reads, which become MLflow datasets.
        overrides: what differs from conf/, for the run's name.
        code: the code that trains; None: this checkout's.
        member: what it has as part of another run.

    Raises:
        SettingsError: the store's address is none.
    """
    opening = Opening(
        name=run_name(settings, net, overrides),
        store=redact(tracking_uri(settings)),
        experiment=settings.tracking.experiment,
        params={name: str(value) for name, value in run_params(settings, net).items()},
        datasets=_datasets(inputs),
        parent=member.parent,
    )
    tags_of = functools.partial(lineage.tags, settings, net, inputs, given=overrides)
    return _started(settings, opening, member, lambda record: add_lineage(record, code, tags_of))


def start_again(
    settings: Settings, first: Opening, params: Mapping[str, str], code: Code, tags: Mapping[str, str]
) -> contextlib.AbstractContextManager[Run]:
    """Return the run of a training that is made again, to be opened by `with`: it stands beside the first.

    Args:
        settings: all settings; those of tracking are read.
        first: of the run that is made again.
        params: what the new one has.
        code: that it was made with.
        tags: its lineage, and how it compares.

    Raises:
        SettingsError: the store's address is none.
    """
    opening = Opening(
        name=f"reproduction of {first.name}",
        store=redact(tracking_uri(settings)),
        experiment=first.experiment,
        params=dict(params),
        datasets=first.datasets,
    )
    return _started(settings, opening, ALONE, lambda record: add_lineage(record, code, lambda _: dict(tags)))


@contextlib.contextmanager
def _started(
    settings: Settings, opening: Opening, member: Member, add_origin: Callable[[Record], None]
) -> Iterator[Run]:
    check_uri(tracking_uri(settings))
    record, in_use = Record.begin(opening, source() | dict(member.tags), member.record_id)
    run = Run(record, settings, in_use, is_new=True)
    is_waited_for = member.parent is None or ON_NODE in os.environ  # a node may die, and its disk with it
    origin = Beside(lambda: add_origin(record))
    try:
        yield run
    except BaseException as error:
        origin.join()
        run.end(*_ending(error), wait=is_waited_for)
        raise
    origin.join()
    run.end(wait=is_waited_for)


def _datasets(inputs: Inputs) -> list[dict[str, Any]]:
    """Return the dataset once for each context: MLflow tells datasets apart by name and digest."""
    source = json.dumps({"uri": paths.prepared(inputs.dataset).as_posix()})
    common = {"digest": inputs.data_md5, "source": source}
    return [
        {"name": f"{inputs.dataset}-{context}", "context": context, "n_rows": n_rows, **common}
        for context, n_rows in inputs.n_rows.items()
    ]


def open_parent(
    settings: Settings,
    record_id: str,
    name: str,
    params: Mapping[str, Any] = MappingProxyType({}),
    tags: Mapping[str, str] = NO_TAGS,
) -> Run:
    """Return a run that others are part of, open again if it had ended; it ends by `end`, or as a context manager.

    Several processes may open it, at once or one after another: they write into one record, which goes to the store
    of the last one.

    Args:
        settings: all settings; those of tracking are read.
        record_id: names it, the same in all processes.
        name: the run's name, which the first to open it gives.
        params: likewise.
        tags: set by each.

    Raises:
        SettingsError: the store's address is none.
    """
    check_uri(tracking_uri(settings))
    opening = Opening(
        name=name,
        store=redact(tracking_uri(settings)),
        experiment=settings.tracking.experiment,
        params={key: str(value) for key, value in params.items() if value is not None},
    )
    record, in_use = Record.begin(opening, source(), record_id)
    record.send_to(opening.store)
    run = Run(record, settings, in_use)
    went_on = {"error": "none: it was gone on with"} if "error" in record.state.tags else {}
    record.change(went_on | dict(tags), status=RUNNING, end_time=None)
    return run


def log_origin(run: Run, settings: Settings, overrides: Sequence[str]) -> None:
    """Add to a run that others are part of by which code, settings and machine it was begun, unless it has that."""
    record = run._record
    if "git.commit" not in record.state.tags:
        Beside(lambda: add_lineage(record, None, lambda code: lineage.origin(settings, code, overrides))).join()


def log_model_of(settings: Settings, record_id: str) -> None:
    """Have an MLflow model made of a run that was logged without one, by `log_trained(..., with_model=False)`.

    Raises:
        DataError: there is no such record, or nothing in it that a model can be made from.
    """
    record = find_record(record_id)
    if not has_parts(record):
        raise DataError(f"{record.folder}/model: holds nothing that a model can be made from")
    record.change(model=True)
    Run(record, settings).let_go(wait=True)


def drop_model_of(record_id: str) -> None:
    """Remove from a record what only a model would be made from; its weights stay.

    Raises:
        DataError: there is no such record.
    """
    drop_model(find_record(record_id))
