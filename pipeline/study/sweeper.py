"""`hydra/sweeper=study`: Hydra's way into a study. It checks all it can, starts the workers, and shows the end."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import USERS_ERRORS
from pipeline.errors import SweepError
from pipeline.study import board, options, signature, slots, space, storage, trial, worker
from pipeline.study.board import Goal
from pipeline.study.composer import Composer
from pipeline.study.worker import Search

if TYPE_CHECKING:
    import optuna
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from pipeline.config import Settings

WORKER = "PIPELINE_STUDY_WORKER"  # in the environment of a process that another one has started
MULTIRUN = Path("multirun")
POLL_SECONDS = 0.3
ADDRESS = "address"  # attribute of a study: by its number of trials, where MLflow compares them

log = logging.getLogger(__name__)


def sweep(loader: "ConfigLoader", config: "DictConfig", given: Mapping[str, Any], overrides: list[str]) -> None:
    """Do a study, or the part of it that this process does.

    Args:
        loader: composes conf/.
        config: what Hydra has composed for the sweep as a whole.
        given: the study's settings, from hydra.sweeper.
        overrides: what varies, and what is fixed.
    """
    level = logging.WARNING if WORKER in os.environ else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)  # not Hydra's
    search = search_of(Composer(loader, config), given, overrides)
    if WORKER in os.environ:
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
        direction=options.direction_of(own, settings),
        folder=MULTIRUN / name,
        plan=slots.Plan(params, own.sampler, combinations, min(own.n_trials, len(combinations) or own.n_trials)),
        composer=composer,
    )


def _checked(composer: Composer, fixed: list[str], params: list[space.Param]) -> "Settings":
    """Return the settings with each parameter's first value, after a look at all others, one at a time."""
    first = [param.override(param.corners()[0]) for param in params]
    settings = trial.settings_of(composer.config([*fixed, *first]))
    if WORKER in os.environ:  # it has been done
        return settings
    _check_read(settings, [param.key for param in params])
    for i, param in enumerate(params):
        for value in param.corners()[1:]:
            trial.settings_of(composer.config([*fixed, *first[:i], param.override(value), *first[i + 1 :]]))
    return settings


def conduct(search: Search) -> None:
    """Do a study with as many workers as it is to have, from where it stands, and show its end.

    Raises:
        SettingsError: the storage cannot be opened, or the study was begun with something else.
        SweepError: too many trials have failed, or no worker is left.
    """
    with storage.alone(search.name):
        study = storage.open_study(search.options.storage, search.name, search.direction)
        signature.settle(study, signature.of(search.options, search.params, search.settings), search.folder)
    goal = Goal(search.settings.objective, search.direction, search.plan.n_slots)
    address = study.user_attrs.get(ADDRESS, {}).get(str(goal.n_trials))
    if not worker.is_done(search, study) or address is None:
        address = _go_on(search, study, goal)
    rows = worker.rows(search, study)
    board.show_end(rows, goal, address or None)
    board.check_failures(rows, search.options.max_failure_rate)


def _go_on(search: Search, study: "optuna.Study", goal: Goal) -> str:
    """Train what is not yet trained, here or in processes of its own; return where all is compared, if anywhere."""
    from pipeline.study import report

    n_done = len(worker.rows(search, study))
    if n_done:
        log.info("study %s: goes on after %d of %d trials", search.name, n_done, goal.n_trials)
    if n_done and signature.code_has_changed(study):
        log.warning("study %s: the code has changed since it was begun; its trials may not compare", search.name)
    space = {param.key: param.text for param in search.params}
    identity = study.user_attrs[signature.ID]
    sweep = report.Sweep(search.settings, identity, search.name, space, goal, search.options.keep_models)
    with _workers(min(search.options.n_jobs, goal.n_trials - n_done)) as workers:
        if n_done < goal.n_trials:
            _settle_data(search, study)  # while the workers load theirs
        with report.begin(sweep) as parent:
            _train(search, study, goal, workers)
            with storage.alone(search.name):  # another terminal may have come to its end, too
                report.tell(sweep, parent, worker.rows(search, study), report.importances_of(study))
    address = report.compared(sweep, worker.rows(search, study)) or ""
    study.set_user_attr(ADDRESS, {str(goal.n_trials): address})
    return address


def _settle_data(search: Search, study: "optuna.Study") -> None:
    """Load the data, and make sure that they are the study's."""
    from pipeline import train

    _, md5 = train.data_of(search.settings)
    with storage.alone(search.name):
        signature.settle_data(study, search.settings.section(search.settings.net).dataset, md5)


def _train(search: Search, study: "optuna.Study", goal: Goal, workers: "list[subprocess.Popen[str]]") -> None:
    """Train until every trial has its outcome: in these processes, or in this one if there are none.

    Raises:
        SweepError: all workers have died.
    """

    def show_all() -> None:
        show(worker.rows(search, study))

    with board.progress(search.name, goal) as show:
        show_all()
        if not workers:
            worker.work(search, study, show_all)
        for process in workers:
            _start(process)
        while any(process.poll() is None for process in workers):
            time.sleep(POLL_SECONDS)
            show_all()
        show_all()
    if not worker.is_done(search, study):
        codes = ", ".join(str(process.returncode) for process in workers)
        raise SweepError(f"study {search.name}: no worker is left (exit codes {codes}); the same command goes on")


@contextlib.contextmanager
def _workers(n_jobs: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Yield processes of the same command that wait for a word; none for one job, which this process does."""
    command = [sys.executable, "-m", "pipeline.train", *sys.argv[1:]]
    os.environ.update(worker.ONE_THREAD)
    environment = os.environ | {WORKER: "1"}
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
        for _ in range(n_jobs if n_jobs > 1 else 0)
    ]
    try:
        yield workers
    finally:
        for process in workers:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # what a worker ends at, if it still lives
        for process in workers:
            process.wait()


def _start(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):  # it has died: the others go on
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]


def _serve(search: Search) -> None:
    """Train for another process, as long as that lives; what takes long to load is loaded while it still checks."""
    from pipeline import train

    with contextlib.suppress(*USERS_ERRORS):  # what the other process tells, too
        train.warm_up(search.settings)
    if not sys.stdin.readline():
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    study = storage.open_study(search.options.storage, search.name, search.direction)
    worker.work(search, study, lambda: None)


def _end_with_parent() -> None:
    """Wait until the process that has started this one closes its end, or is gone; then interrupt."""
    import _thread

    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read, whose lock would break the end of this process
    _thread.interrupt_main()


def _check_read(settings: "Settings", keys: list[str]) -> None:
    """Raise SettingsError for a parameter that no trial reads, unless what is read itself varies."""
    from pipeline.train import check_overrides

    if not any(key in ("net", "experiment") or key.endswith(".dataset") for key in keys):
        check_overrides(settings, [f"{key}=..." for key in keys])
