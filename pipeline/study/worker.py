"""A process that trains: it claims a trial, trains it, tells its outcome, and goes on until nothing is left."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import USERS_ERRORS
from pipeline.config import Settings
from pipeline.errors import Pruned
from pipeline.study import signature, slots, storage, trial
from pipeline.study.composer import Composer
from pipeline.study.options import Direction, Options
from pipeline.study.space import Param
from pipeline.study.trial import COMPLETE, FAILED, PRUNED, Outcome, Row
from pipeline.tracking.store import ON_NODE

if TYPE_CHECKING:
    import optuna
    from omegaconf import DictConfig

REPORTS = 30  # at most, of a trial to the pruner: each writes to the storage: 1.5 ms to a journal, 15 ms to SQLite
WAIT_SECONDS = 0.2
ONE_THREAD = {
    name: "1"
    for name in (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    )
}


@dataclass(frozen=True)
class Search:
    """A study as all its processes know it.

    Attributes:
        name: the study's.
        options: its settings.
        fixed: overrides that hold for every trial.
        params: what varies.
        settings: with the first value of each.
        first: these values, by parameter.
        direction: minimize or maximize.
        folder: of its trials.
        plan: what is to be tried.
        composer: makes a config, and a job, of a trial's overrides.
        told: the trials whose outcome this process has read, by Optuna's id; an outcome stays as it is.
    """

    name: str
    options: Options
    fixed: Sequence[str]
    params: Sequence[Param]
    settings: Settings
    first: Mapping[str, str]
    direction: Direction
    folder: Path
    plan: slots.Plan
    composer: Composer
    told: dict[int, Row] = field(default_factory=dict, compare=False)


def work(
    search: Search,
    study: "optuna.Study",
    on_trial: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Train until every trial has its outcome, here or in another process.

    Args:
        search: the study.
        study: as Optuna has it.
        on_trial: called after each trial of this process, and while it waits for others.
        after: called after each trial of this process.
    """
    study.pruner = _pruner(search)
    while not is_done(search, study):
        claimed = slots.claim(study, search.plan)
        if claimed is None:  # the rest is being trained elsewhere; whoever does it may die
            time.sleep(WAIT_SECONDS)
        else:
            _conduct(search, study, claimed)
            after()
        on_trial()


def is_done(search: Search, study: "optuna.Study") -> bool:
    """Return whether every trial has its outcome."""
    ended = [held for held in slots.holders(study) if held.state.is_finished()]
    wanted = [held for held in ended if held.user_attrs[slots.SLOT] < search.plan.n_slots]
    return len(wanted) >= search.plan.n_slots


def rows(search: Search, study: "optuna.Study") -> list[Row]:
    """Return the trials that have an outcome, by number."""
    ended = [held for held in slots.holders(study) if held.state.is_finished() and slots.OUTCOME in held.user_attrs]
    for held in ended:
        if held._trial_id not in search.told:
            search.told[held._trial_id] = Row(
                number := held.user_attrs[slots.SLOT],
                slots.values_of(held, search.params),
                trial.outcome_from(held.user_attrs[slots.OUTCOME]),
                search.folder / str(number),
            )
    return [search.told[held._trial_id] for held in ended]


def _pruner(search: Search) -> "optuna.pruners.BasePruner":
    from pipeline.study import options
    from pipeline.study.pruning import SlotPruner

    n_epochs = search.settings.section(search.settings.net).epochs
    return SlotPruner(options.pruner(search.options.pruner, n_epochs))


def _conduct(search: Search, study: "optuna.Study", claimed: "optuna.Trial") -> None:
    """Train a claimed trial and tell its outcome; the claim is given back if this is interrupted."""
    import optuna

    number = claimed.user_attrs[slots.SLOT]
    folder = search.folder / str(number)
    values = slots.values_of(claimed, search.params)
    mark = {"study": study.user_attrs["id"], "params": values}
    try:
        with slots.beating(claimed):
            outcome = _found(search, folder, mark) or _trained(search, study, claimed, mark)
        trial.save(outcome, folder, **mark)
    except BaseException:
        slots.lose(study, claimed._trial_id, "its training was interrupted")
        raise
    states = optuna.trial.TrialState
    state = {COMPLETE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}[outcome.state]
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # taken for dead: others have trained it
        claimed.set_user_attr(slots.OUTCOME, asdict(outcome))
        study.tell(claimed, outcome.value if outcome.state == COMPLETE else None, state, skip_if_finished=True)


def _found(search: Search, folder: Path, mark: dict[str, Any]) -> Outcome | None:
    """Return the outcome that a worker has written here before it died, so that it could not tell it."""
    from pipeline.study import report

    kept = trial.load(folder)
    if not kept or any(kept.get(key) != value for key, value in mark.items()):
        return None
    outcome = trial.outcome_from(kept)
    if outcome.state == COMPLETE:
        report.end_run(search.settings, outcome)
    return outcome


def _trained(search: Search, study: "optuna.Study", claimed: "optuna.Trial", mark: dict[str, Any]) -> Outcome:
    from pipeline.train import Part

    number = claimed.user_attrs[slots.SLOT]
    folder = search.folder / str(number)
    overrides = [*search.fixed, *(f"{key}={value}" for key, value in mark["params"].items())]
    watch = Watch(claimed, search.settings.objective, is_on=search.options.pruner.name != "none")
    part = Part(mark["study"], {"sweep": search.name, "sweep.trial": str(number)}, watch.on_epoch_end)
    part.named = slots.record_id_of(mark["study"], claimed.number)
    changed: list[signature.ChangedError] = []

    def train(composed: "DictConfig") -> Outcome:
        watch.n_epochs = composed[composed.net].epochs
        failed = Outcome(FAILED, tuple(overrides))
        try:
            settings = trial.settings_of(composed)
            failed = replace(failed, net=settings.net, dataset=settings.section(settings.net).dataset)
            signature.settle_inputs(study, settings, mark["params"], bring=ON_NODE in os.environ)
        except signature.ChangedError as error:  # Hydra would print more about it
            changed.append(error)
            return failed
        except USERS_ERRORS as error:  # that one trial's
            return replace(failed, error=trial.told(error))
        return trial.train(composed, folder, overrides, part, lambda outcome: trial.save(outcome, folder, **mark))

    outcome = search.composer.in_job(overrides, number, folder, train)
    if changed:
        raise changed[0]
    return replace(outcome, value=watch.last) if outcome.state == PRUNED else outcome


class Watch:
    """Reports a training to the pruner, and ends it if the pruner says so."""

    def __init__(self, claimed: "optuna.Trial", objective: str, *, is_on: bool) -> None:
        self.n_epochs = 1
        self.last: float | None = None
        self._trial = claimed
        self._objective = objective
        self._is_on = is_on

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Report every so-manieth epoch, counted from 1 in the storage; raise Pruned where it is not to go on.

        Which ones depends on the number of epochs alone, so that trials report the same ones, run after run.
        """
        every = -(-self.n_epochs // REPORTS)
        if not self._is_on or (epoch + 1) % every:
            return
        self.last = metrics[self._objective]
        try:
            self._trial.report(self.last, epoch + 1)
            is_hopeless = epoch + 1 < self.n_epochs and self._trial.should_prune()
        except storage.failures():  # the training goes on: whether it may be told, its end shows
            self._is_on = False
            return
        if is_hopeless:
            raise Pruned(f"in epoch {epoch + 1} of {self.n_epochs}: {self._objective} {self.last:.4g}")
