"""Hydra's own sweeps (`-m` without `hydra/sweeper=study`): every combination, in this process or in those of joblib.

Hydra calls `Grid` where such a sweep begins and ends, wherever `job` then runs. A training that an earlier grid has
finished with the same settings, data and code is reused, not repeated.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf.errors import OmegaConfBaseException

from pipeline.address import NOT_TO_A_FILE, redact
from pipeline.command import USERS_ERRORS, one_line
from pipeline.config import Settings, flatten
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from pipeline import tracking
    from pipeline.study.desk import Desk, Own
    from pipeline.study.report import Sweep
    from pipeline.study.trial import Row

PARENT = "PIPELINE_GRID"  # in the environment of the jobs, whichever processes run them: the parent's record
TOTAL = "PIPELINE_GRID_TRIALS"  # likewise: how many there are
KEYS = "PIPELINE_GRID_KEYS"  # likewise: what varies
SHOWN_THERE = "PIPELINE_GRID_SHOWN"  # likewise: the jobs need not, as the process that began the grid shows them
ON_NODE = "PIPELINE_NODE"  # as tracking.store.ON_NODE
ELSEWHERE = ("ray", "submitit")  # launchers whose jobs say nothing in this terminal
POLL_SECONDS = 0.3


@dataclass
class Open:
    """A grid that this process has begun.

    Attributes:
        sweep: what it is.
        parent: its run.
        folder: of its jobs.
        again: what the same command needs to go on after Ctrl-C.
        around: what ends with it: the connection to a cluster, what shows its jobs.
    """

    sweep: "Sweep"
    parent: "tracking.Run"
    folder: Path
    again: str
    around: ExitStack = field(default_factory=ExitStack)

    def rows(self) -> "list[Row]":
        """Return the trials that have ended."""
        from pipeline.study.desk import rows_of

        return rows_of(self.folder, self.sweep.record_id, self.sweep.space)


_open: dict[str, Open] = {}  # not in Grid, which joblib copies into other processes

log = logging.getLogger(__name__)


class Grid(Callback):
    """What Hydra calls at the begin and the end of a sweep; of one with another sweeper than its own, little."""

    def __init__(self, max_failure_rate: float, keep_models: int) -> None:
        self._max_failure_rate = max_failure_rate
        self._keep_models = keep_models

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        """Check a single training's config, before Hydra writes it to a file."""
        with _told():
            _check_secrets(config)

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Check all that the grid will try, and open the parent run."""
        with _told():
            _check_secrets(config)
            if _is_grid(config):
                self._begin(config)

    def _begin(self, config: "DictConfig") -> None:
        from pipeline.study import checks, desk, options, report, trial
        from pipeline.study.worker import ONE_THREAD

        options.check_grid(self._max_failure_rate, self._keep_models)
        settings, space, n_trials = _checked(config)
        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob(f"*/{trial.FILE}")):
            raise SettingsError(f"hydra.sweep.dir: {folder} holds an earlier sweep's trials; name another folder")
        launcher = _launcher(config)
        for needed in (folder, desk.RESULTS):
            checks.make_folder(needed)
        if launcher == "joblib":
            os.environ.update(ONE_THREAD)
        _log_lines()
        for chatty in ("hydra", "hydra_plugins"):  # a line before each job
            logging.getLogger(chatty).setLevel(logging.WARNING)
        variables = {PARENT: uuid.uuid4().hex, TOTAL: str(n_trials), KEYS: " ".join(space)}
        variables |= {SHOWN_THERE: "1"} if launcher in ELSEWHERE else {}
        os.environ |= variables
        with ExitStack() as around:
            own = desk.Own(folder, variables[PARENT], tuple(space))
            there = around.enter_context(_elsewhere(config, settings, own))
            goal, keep = _goal(settings, n_trials), self._keep_models
            given = list(config.hydra.overrides.task)
            sweep_id, name = variables[PARENT], _name(folder)
            sweep = report.Sweep(settings, sweep_id, name, space, given, goal, keep, there.everywhere)
            again = " with another hydra.sweep.dir" if checks.names_folder(config) else ""  # as this one is not empty
            begun = Open(sweep, report.begin(sweep), folder, again)
            if launcher in ELSEWHERE:
                around.enter_context(_shown(begun, there.news))
            begun.around = around.pop_all()
        _open[variables[PARENT]] = begun

    def on_multirun_end(self, config: "DictConfig", **_: Any) -> None:
        """Tell what came of it, in MLflow and in the terminal; too many failures end it with exit code 1."""
        if not _is_grid(config):
            return
        with _told():
            self._end()

    def _end(self) -> None:
        from pipeline.study import board, report

        _log_lines()  # joblib's launcher has set Hydra's again
        begun = _open.pop(os.environ.pop(PARENT))
        sweep, parent = begun.sweep, begun.parent
        with begun.around:
            rows = begun.rows()
            with parent:
                _end_abandoned(begun)
                report.tell(sweep, parent, rows, {})
        board.show_end(rows, sweep.goal, report.compared(sweep, parent, rows))
        board.check_failures(rows, self._max_failure_rate)


def _end_abandoned(begun: Open) -> None:
    """End the runs of those jobs that were begun on a node that has died, and done again elsewhere."""
    from pipeline.study import report
    from pipeline.tracking.records import KILLED

    if begun.sweep.everywhere:
        counted = {row.outcome.record_id for row in begun.rows()}
        report.end_abandoned(
            begun.sweep, begun.parent, lambda run: run.record_id not in counted and run.status != KILLED
        )


@dataclass(frozen=True)
class There:
    """What a grid asks of the machines that its jobs are on; None: they are on this one's disk.

    Attributes:
        everywhere: calls a function on each.
        news: returns the jobs' warnings since its last call.
    """

    everywhere: "Callable[..., list[tuple[str, Any]]] | None" = None
    news: Callable[[], list[str]] | None = None


@contextlib.contextmanager
def _elsewhere(config: "DictConfig", settings: Settings, own: "Own") -> Iterator[There]:
    """Yield what is asked of a Ray cluster, if the grid is on one."""
    if _launcher(config) != "ray":
        yield There()
        return
    from omegaconf import OmegaConf

    from pipeline.study import on_ray, ray_desk
    from pipeline.study.worker import ONE_THREAD

    given: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
    variables = ONE_THREAD | {name: value for name, value in os.environ.items() if name.startswith(PARENT)}
    with on_ray.cluster(settings, given, variables), ray_desk.desk_here(own) as news:
        yield There(on_ray.everywhere, news)


@contextlib.contextmanager
def _shown(begun: Open, news: Callable[[], list[str]] | None) -> Iterator[None]:
    """Show the jobs as they end, which other processes do and tell nobody here."""
    from pipeline.study import board

    ended = threading.Event()

    def follow() -> None:
        with board.progress(begun.sweep.name, begun.sweep.goal) as show:
            show([])
            while not ended.wait(POLL_SECONDS):
                _log_lines()  # Ray's launcher has set Hydra's again
                for text in news() if news else []:
                    log.warning("%s", text)
                show(begun.rows())
            show(begun.rows())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _check_secrets(config: "DictConfig") -> None:
    """Raise SettingsError where an address of the config has a password, as no file is to hold one."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config)  # not resolved: what the environment holds is not written
    for key, value in flatten(plain).items():
        if redact(str(value)) != str(value):
            raise SettingsError(f"{key}: {NOT_TO_A_FILE}, but got {redact(str(value))}")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """End the process at an error: Hydra would make a warning of it, and go on."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        from pipeline.compose import hydras_reason

        sys.exit(f"error: {hydras_reason(error)}")
    except USERS_ERRORS as error:
        sys.exit(f"error: {one_line(error)}")
    except Exception:  # a fault of the code, which is to be seen whole
        log.exception("the sweep cannot go on")
        sys.exit(1)


def interrupt(told: str = "interrupted") -> None:
    """Tell what has come of the grid of this process, which was interrupted, or whose launcher has failed."""
    from pipeline.study import report

    _log_lines()  # joblib's launcher has set Hydra's again
    for begun in _open.values():
        begun.around.close()
        rows = begun.rows()
        log.info(
            "grid %s: %s after %d of %d trials; the same command%s reuses what has finished",
            *(begun.sweep.name, told, len(rows), begun.sweep.goal.n_trials, begun.again),
        )
        _end_abandoned(begun)
        report.tell(begun.sweep, begun.parent, rows, {}, is_over=False)
        begun.parent.end("KILLED")
    _open.clear()


def is_launchers(error: BaseException) -> bool:
    """Return whether an error is that of a launcher: a job, or the machine that it ran on, is gone."""
    return type(error).__module__.partition(".")[0] in ELSEWHERE


def _launcher(config: "DictConfig") -> str:
    """Return the launcher's name: basic, joblib, ray, submitit.

    Raises:
        SettingsError: its package is not here.
    """
    target: str = config.hydra.launcher._target_
    if target.endswith(".RayAWSLauncher"):
        raise SettingsError("hydra/launcher: ray is needed, on a cluster that `ray up` has started, but got ray_aws")
    package = target.rpartition(".")[0].rpartition(".")[0]
    found = re.match(r"hydra_plugins\.hydra_(\w+)_launcher", target)
    if found and find_spec(package) is None:
        name = found[1]
        raise SettingsError(
            f"hydra/launcher: hydra-{name}-launcher is needed, but it is not here: `make setup-cluster` installs it"
        )
    return found[1] if found else "basic"


def _checked(config: "DictConfig") -> tuple[Settings, dict[str, str], int]:
    """Return the settings with the first value of all that varies, what varies, and the number of trials.

    Raises:
        SettingsError: a value is not allowed, or is none of a grid.
    """
    from hydra.core.global_hydra import GlobalHydra

    from pipeline.study import checks, space
    from pipeline.study.composer import Composer

    composer = Composer(GlobalHydra.instance().config_loader(), config)
    in_conf = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    fixed, varying = space.split(composer.parsed([*in_conf, *config.hydra.overrides.task]))
    tried = []
    for override in varying:
        if not override.is_discrete_sweep():
            raise SettingsError(
                f"{override.input_line}: an interval needs hydra/sweeper=study; a grid takes choice(…) or range(…)"
            )
        if override.is_range_sweep():
            space.check_range(override)
        key = override.get_key_element()
        tried.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        if not tried[-1]:
            raise SettingsError(f"{override.input_line}: at least one value is needed")
    n_trials = math.prod(map(len, tried))
    space.check_size("hydra.sweeper", n_trials)
    texts = {override.get_key_element().lstrip("+~"): space.text_of(override) for override in varying}
    return checks.check(composer, fixed, tried), texts, n_trials


def job(composed: "DictConfig", hydra: "HydraConf") -> float:
    """Train as one of a grid, or reuse what an earlier one has trained; return the objective, NaN where it failed.

    Args:
        composed: the config of the training.
        hydra: Hydra's own.
    """
    from pipeline.study import board, trial
    from pipeline.study.desk import Done, store_of
    from pipeline.train import Part

    _log_lines()
    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    desk = _desk(folder.parent)
    tags = {"sweep": _name(folder.parent), "sweep.trial": str(hydra.job.num)}
    part = Part(os.environ.get(PARENT), tags, lambda epoch, metrics: None)
    key, store = None, ""
    try:
        settings = trial.settings_of(composed)
        key, store = _key(settings, *desk.inputs(settings)), store_of(settings)
        outcome = desk.ended(folder.name) or desk.reused(settings, key, overrides)
        outcome = outcome or trial.train(composed, folder, overrides, part)
    except USERS_ERRORS as error:
        outcome = trial.Outcome(trial.FAILED, tuple(overrides), error=one_line(error))
    rows = desk.keep(Done(hydra.job.num, folder.name, outcome, key, store), folder)
    if SHOWN_THERE not in os.environ:
        own = next(row for row in rows if row.number == hydra.job.num)
        log.info("%s", board.line(own, rows, _goal(settings, int(os.environ[TOTAL]))))
    return math.nan if outcome.value is None else outcome.value


def _desk(folder: Path) -> "Desk":
    """Return whom a job asks and tells: the disk, where it is that of the machine that the grid was started on."""
    if ON_NODE in os.environ:
        from pipeline.study import ray_desk

        return ray_desk.Far(os.environ[PARENT])
    from pipeline.study.desk import Own

    return Own(folder, os.environ.get(PARENT), tuple(os.environ[KEYS].split()))


def _key(settings: Settings, data_md5: str | None, initial_md5: str | None) -> str:
    """Return the digest of all that a training's result depends on: settings, data, weights at the start, code."""
    from pipeline import tracking, train
    from pipeline.study.signature import code_digest

    _, md5 = train.data_of(settings, data_md5)
    _, initial_md5 = train.initial_of(settings, initial_md5)
    read = [tracking.run_params(settings, settings.net), md5, initial_md5, code_digest()]
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _log_lines() -> None:
    """Log plain lines to stderr: Hydra's own handlers write to stdout, and a file for each job."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


def _is_grid(config: "DictConfig") -> bool:
    return bool(config.hydra.sweeper._target_.endswith(".BasicSweeper"))


def _name(folder: Path) -> str:
    """Return the grid's name, from its folder: 2026-07-01/12-30-00-123456."""
    return "/".join(folder.parts[-2:])


def _goal(settings: Settings, n_trials: int) -> Any:
    from pipeline.study.board import Goal
    from pipeline.study.options import natural_direction

    return Goal(settings.objective, natural_direction(settings.objective), n_trials)
