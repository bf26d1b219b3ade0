"""`hydra/sweeper=study`: Hydra's way into a study. It checks all it can, starts the workers, and shows the end."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import USERS_ERRORS
from pipeline.errors import SettingsError, SweepError
from pipeline.study import board, checks, options, signature, slots, space, storage, trial, worker
from pipeline.study.board import Goal
from pipeline.study.composer import Composer
from pipeline.study.worker import Search
from pipeline.study.workers import IS_WORKER, RENEWED, Workers, processes, renew_if_grown
from pipeline.tracking.store import ON_NODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import optuna
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from pipeline.config import Settings
    from pipeline.study.report import Sweep
    from pipeline.tracking import Run

MULTIRUN = Path("multirun")
POLL_SECONDS = 0.3
MOST_DATA = 4  # different data that are made before a sweep goes on: each may take seconds
ADDRESS = "address"  # attribute of a study: where MLflow compares its trials, by their number and that of models

log = logging.getLogger(__name__)


def sweep(loader: "ConfigLoader", config: "DictConfig", given: Mapping[str, Any], overrides: list[str]) -> None:
    """Do a study, or the part of it that this process does.

    Args:
        loader: composes conf/.
        config: what Hydra has composed for the sweep as a whole.
        given: the study's settings, from hydra.sweeper.
        overrides: what varies, and what is fixed.
    """
    level = logging.WARNING if IS_WORKER in os.environ else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)  # not Hydra's
    if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
        raise SettingsError(
            "hydra/launcher: none is needed, as a study starts its own workers: hydra.sweeper.n_jobs says how many"
        )
    if checks.names_folder(config):
        raise SettingsError(
            f"hydra.sweep.dir: none is needed, as a study's trials are in {MULTIRUN}/<study>, which "
            "hydra.sweeper.study_name names"
        )
    search = search_of(Composer(loader, config), given, overrides)
    with storage.expected(search.name):
        if IS_WORKER in os.environ:
            _serve(search)
        else:
            conduct(search)


def search_of(composer: Composer, given: Mapping[str, Any], overrides: list[str]) -> Search:
    """Return the study that the command line and conf/ ask for.

    Raises:
        SettingsError: something in it is not allowed.
    """
    own = options.read(given)
    fixed, params = space.read(composer.parsed(overrides))
    settings = _checked(composer, fixed, params)
    combinations = space.grid(params) if own.sampler.name == "grid" else []
    name = own.study_name or options.default_name(settings, [param.key for param in params])
    return Search(
        name=name,
        options=own,
        fixed=fixed,
        params=params,
        settings=settings,
        first={param.key: param.override(param.corners()[0]).partition("=")[2] for param in params},
        direction=options.direction_of(own, settings),
        folder=MULTIRUN / name,
        plan=slots.Plan(params, own.sampler, combinations, min(own.n_trials, len(combinations) or own.n_trials)),
        composer=composer,
    )


def _checked(composer: Composer, fixed: list[str], params: list[space.Param]) -> "Settings":
    """Return the settings with each parameter's first value, after a look at all others."""
    tried = [[param.override(value) for value in param.corners()] for param in params]
    if IS_WORKER in os.environ:  # they have been looked at
        tried = [values[:1] for values in tried]
    return checks.check(composer, fixed, tried)


def conduct(search: Search) -> None:
    """Do a study with as many workers as it is to have, from where it stands, and show its end.

    Raises:
        SettingsError: the storage cannot be opened, or the study was begun with something else.
        SweepError: too many trials have failed, or no worker is left.
    """
    from pipeline.tracking.pages import is_page

    n_slots, n_combinations = search.plan.n_slots, len(search.plan.combinations)
    with storage.alone(search.name):
        study = storage.open_study(search.options.storage, search.name, search.direction)
        checks.make_folder(search.folder)  # first: where that fails, no study has begun
        signature.settle(study, signature.of(search.options, search.params, search.settings), search.folder)
    n_done = len(worker.rows(search, study))
    goal = Goal(search.settings.objective, search.direction, max(n_slots, n_done))
    if n_done > n_slots:
        log.info("study %s: has %d trials already, so that n_trials=%d adds none", search.name, n_done, n_slots)
    elif n_slots < n_combinations:
        log.info("the grid has %d combinations, of which n_trials=%d are tried", n_combinations, n_slots)
    address = study.user_attrs.get(ADDRESS, {}).get(_told(search, goal))
    if not worker.is_done(search, study) or not address or not is_page(address):
        address = _go_on(search, study, goal)
    else:
        _settle_data(search, study)
    rows = worker.rows(search, study)
    board.show_end(rows, goal, address or None)
    board.check_failures(rows, search.options.max_failure_rate)


def _go_on(search: Search, study: "optuna.Study", goal: Goal) -> str:
    """Train what is not yet trained, here or in processes of its own; return where all is compared, if anywhere."""
    from pipeline import tracking
    from pipeline.study import report
    from pipeline.tracking.pages import is_page

    tracking.prepare()  # starts now what takes seconds to start
    n_done, is_done = len(worker.rows(search, study)), worker.is_done(search, study)
    if n_done and not is_done:
        log.info("study %s: goes on after %d of %d trials", search.name, n_done, goal.n_trials)
    if n_done and signature.code_has_changed(study):
        log.warning("study %s: the code has changed since it was begun; its trials may not compare", search.name)
    space = {param.key: param.text for param in search.params}
    identity = study.user_attrs[signature.ID]
    given = [*search.fixed, *(f"{key}={text}" for key, text in space.items())]
    keep, everywhere = search.options.keep_models, _everywhere(search)
    sweep = report.Sweep(search.settings, identity, search.name, space, given, goal, keep, everywhere)
    n_jobs = 0 if is_done else min(search.options.n_jobs, goal.n_trials - n_done)
    with _workers(search, n_jobs) as workers:
        _settle_data(search, study)  # while the workers load theirs
        with report.begin(sweep) as parent:
            try:
                _train(search, study, goal, workers)
            except KeyboardInterrupt:
                rows = worker.rows(search, study)
                told = "study %s: interrupted after %d of %d trials; the same command goes on"
                log.info(told, search.name, len(rows), goal.n_trials)
                report.tell(sweep, parent, rows, {}, is_over=False)
                raise
            if everywhere:
                _end_abandoned(search, study, sweep, parent)
            with storage.alone(search.name):  # another terminal may have come to its end, too
                report.tell(sweep, parent, worker.rows(search, study), report.importances_of(study))
    address = report.compared(sweep, parent, worker.rows(search, study)) or ""
    if address and is_page(address):
        study.set_user_attr(ADDRESS, {_told(search, goal): address})
    return address


def _end_abandoned(search: Search, study: "optuna.Study", sweep: "Sweep", parent: "Run") -> None:
    """End the runs of trainings that do not count: their node is gone, or was out of reach and has gone on."""
    from pipeline.study import report
    from pipeline.tracking.records import KILLED

    counted = {row.outcome.record_id for row in worker.rows(search, study)}
    lost = slots.lost_records(study, sweep.record_id) - counted
    report.end_abandoned(sweep, parent, lambda run: run.record_id in lost and run.status != KILLED)


def _workers(search: Search, n_jobs: int) -> "AbstractContextManager[Workers | None]":
    if search.options.cluster is None:
        return processes(n_jobs)
    from pipeline.study import ray_workers

    return ray_workers.tasks(search.settings, search.options.cluster_address, n_jobs)


def _everywhere(search: Search) -> "Callable[..., list[tuple[str, Any]]] | None":
    if search.options.cluster is None:
        return None
    from pipeline.study import on_ray

    return on_ray.everywhere


def _told(search: Search, goal: Goal) -> str:
    """Return what has been told, and needs not be told again, once a study has come to its end."""
    return f"{goal.n_trials} trials, {search.options.keep_models} models"


def _settle_data(search: Search, study: "optuna.Study") -> None:
    """Load the data, and make sure that they are the study's: of the first trial, and of those that had others."""
    from pipeline.study import inputs

    settings = {json.dumps(signature.of_inputs(search.first)): (search.settings, search.first)}
    for row in worker.rows(search, study):
        read = json.dumps(signature.of_inputs(row.params))
        if read not in settings and len(settings) < MOST_DATA:
            composed = search.composer.config(row.outcome.overrides)
            settings[read] = trial.settings_of(composed), dict(row.params)
    for one, varied in settings.values():
        with storage.alone(search.name):
            signature.settle_inputs(study, one, varied)
        if search.options.cluster:
            inputs.offer(one)


def _train(search: Search, study: "optuna.Study", goal: Goal, workers: Workers | None) -> None:
    """Train until every trial has its outcome: by these workers, or in this process if there are none.

    Raises:
        SweepError: all workers have died.
    """

    def show_all() -> None:
        with contextlib.suppress(*storage.failures()):  # what is being trained is to end first
            show(worker.rows(search, study))

    with board.progress(search.name, goal) as show:
        show_all()
        if workers is None:
            worker.work(search, study, show_all)
            return
        workers.start()
        while workers.is_any_left():
            _bury(study, workers)
            time.sleep(POLL_SECONDS)
            show_all()
        _bury(study, workers)
        show_all()
    if not worker.is_done(search, study):
        raise SweepError(f"study {search.name}: no worker is left; the same command goes on")


def _bury(study: "optuna.Study", workers: Workers) -> None:
    """Warn of each worker that has died; what it was training, others will train again."""
    for death in workers.deaths():
        log.warning("%s", death.told)
        if death.name:
            slots.bury_worker(study, death.name)


def _serve(search: Search) -> None:
    """Train for another process, as long as that lives; what takes long to load is loaded while it still checks."""
    from pipeline import train

    if ON_NODE not in os.environ:  # there the data are brought, which needs the study
        with contextlib.suppress(*USERS_ERRORS):  # what the other process tells, too
            train.warm_up(search.settings)
    if RENEWED not in os.environ and not sys.stdin.readline():
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    study = storage.open_study(search.options.storage, search.name, search.direction)
    worker.work(search, study, after=lambda: renew_if_grown(search.options.max_worker_memory_mb))


def _end_with_parent() -> None:
    """Wait until the process that has started this one closes its end, or is gone; then interrupt."""
    import _thread

    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read, whose lock would break the end of this process
    _thread.interrupt_main()
