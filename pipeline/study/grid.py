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
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf.errors import OmegaConfBaseException

from pipeline.command import USERS_ERRORS, one_line
from pipeline.config import Settings
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from pipeline import tracking
    from pipeline.study.report import Sweep
    from pipeline.study.trial import Outcome, Row

PARENT = "PIPELINE_GRID"  # in the environment of the jobs, whichever processes run them: the parent's record
TOTAL = "PIPELINE_GRID_TRIALS"  # likewise: how many there are
KEYS = "PIPELINE_GRID_KEYS"  # likewise: what varies
RESULTS = Path("studies/results")  # a file for each training that can be reused

_open: "dict[str, tuple[Sweep, tracking.Run, Path]]" = {}  # not in Grid, which joblib copies into other processes

log = logging.getLogger(__name__)


class Grid(Callback):
    """What Hydra calls at the begin and the end of a sweep; of one with another sweeper than its own, nothing."""

    def __init__(self, max_failure_rate: float, keep_models: int) -> None:
        self._max_failure_rate = max_failure_rate
        self._keep_models = keep_models

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Check all that the grid will try, and open the parent run."""
        if not _is_grid(config):
            return
        with _told():
            self._begin(config)

    def _begin(self, config: "DictConfig") -> None:
        from pipeline.study import checks, options, report, trial
        from pipeline.study.worker import ONE_THREAD

        options.check_grid(self._max_failure_rate, self._keep_models)
        settings, space, n_trials = _checked(config)
        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob(f"*/{trial.FILE}")):
            raise SettingsError(f"hydra.sweep.dir: {folder} holds an earlier sweep's trials; name another folder")
        for needed in (folder, RESULTS):
            checks.make_folder(needed)
        if "joblib" in config.hydra.launcher._target_:
            os.environ.update(ONE_THREAD)
        _log_lines()
        for chatty in ("hydra", "hydra_plugins"):  # a line before each job
            logging.getLogger(chatty).setLevel(logging.WARNING)
        os.environ |= {PARENT: uuid.uuid4().hex, TOTAL: str(n_trials), KEYS: " ".join(space)}
        goal = _goal(settings, n_trials)
        given = list(config.hydra.overrides.task)
        sweep = report.Sweep(settings, os.environ[PARENT], _name(folder), space, given, goal, self._keep_models)
        _open[os.environ[PARENT]] = sweep, report.begin(sweep), folder

    def on_multirun_end(self, config: "DictConfig", **_: Any) -> None:
        """Tell what came of it, in MLflow and in the terminal; too many failures end it with exit code 1."""
        if not _is_grid(config):
            return
        with _told():
            self._end()

    def _end(self) -> None:
        from pipeline.study import board, report

        sweep_id = os.environ.pop(PARENT)
        sweep, parent, folder = _open.pop(sweep_id)
        rows = _rows(folder, sweep_id, sweep.space)
        with parent:
            report.tell(sweep, parent, rows, {})
        board.show_end(rows, sweep.goal, report.compared(sweep, parent, rows))
        board.check_failures(rows, self._max_failure_rate)


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


def interrupt() -> None:
    """Tell what has come of the grid of this process, which was interrupted."""
    from pipeline.study import report

    _log_lines()  # joblib's launcher has set Hydra's again
    for sweep_id, (sweep, parent, folder) in _open.items():
        rows = _rows(folder, sweep_id, sweep.space)
        log.info(
            "grid %s: interrupted after %d of %d trials; the same command reuses what has finished",
            *(sweep.name, len(rows), sweep.goal.n_trials),
        )
        report.tell(sweep, parent, rows, {}, is_over=False)
        parent.end("KILLED")
    _open.clear()


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
    from filelock import FileLock

    from pipeline.study import board, trial
    from pipeline.train import Part

    _log_lines()
    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    sweep_id = os.environ.get(PARENT)
    tags = {"sweep": _name(folder.parent), "sweep.trial": str(hydra.job.num)}
    part = Part(sweep_id, tags, lambda epoch, metrics: None)
    key = None
    try:
        settings = trial.settings_of(composed)
        key = _key(settings)
        outcome = _reused(settings, key, overrides) or trial.train(composed, folder, overrides, part)
    except USERS_ERRORS as error:
        outcome = trial.Outcome(trial.FAILED, tuple(overrides), error=one_line(error))
    if key and outcome.state == trial.COMPLETE and not outcome.reused:
        trial.save(outcome, RESULTS / key, place=str(folder), store=_store(settings))
    with FileLock(folder.parent / ".lock"):  # so that of two that end at once each has its own count
        trial.save(outcome, folder, number=hydra.job.num, sweep=sweep_id)
        rows = _rows(folder.parent, sweep_id, os.environ[KEYS].split())
        own = next(row for row in rows if row.number == hydra.job.num)
        log.info("%s", board.line(own, rows, _goal(settings, int(os.environ[TOTAL]))))
    return math.nan if outcome.value is None else outcome.value


def _key(settings: Settings) -> str:
    """Return the digest of all that a training's result depends on: settings, data, weights at the start, code."""
    from pipeline import tracking, train
    from pipeline.study.signature import code_digest

    _, md5 = train.data_of(settings)
    _, initial_md5 = train.initial_of(settings)
    read = [tracking.run_params(settings, settings.net), md5, initial_md5, code_digest()]
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _reused(settings: Settings, key: str, overrides: Sequence[str]) -> "Outcome | None":
    """Return the outcome of the earlier training of that key, if its net is still there and in the same store."""
    from pipeline import trained
    from pipeline.errors import DataError
    from pipeline.study import trial
    from pipeline.train import objective_of

    kept = trial.load(RESULTS / key) if settings.tracking.reuse else None
    if kept is None or kept["store"] != _store(settings):
        return None
    try:
        result = trained.load(Path(kept["place"]) / "net")
    except (DataError, OSError):
        return None
    if result.weights_sha256 != kept["weights_sha256"]:  # another training has been there since
        return None
    log.info("reused, as settings, data and code are the same: %s (tracking.reuse=false trains anew)", kept["place"])
    value = objective_of(settings, result)  # which may be another objective than that of the earlier grid
    return replace(trial.outcome_from(kept), value=value, overrides=tuple(overrides), reused=True)


def _store(settings: Settings) -> str:
    from pipeline import tracking
    from pipeline.address import redact

    return f"{redact(tracking.tracking_uri(settings))} {settings.tracking.experiment}"


def _rows(folder: Path, sweep_id: str | None, keys: Iterable[str]) -> "list[Row]":
    """Return the trials of a sweep whose outcomes stand in the folders of its jobs, each with what varies."""
    from pipeline.study import trial

    kept = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob(f"*/{trial.FILE}")]
    kept = [(path, one) for path, one in kept if one.get("sweep") == sweep_id]
    kept.sort(key=lambda one: int(one[1]["number"]))
    given = [dict(text.lstrip("+").partition("=")[::2] for text in one["overrides"]) for _, one in kept]
    return [
        trial.Row(
            one["number"],
            {key: params[key] for key in keys if key in params},
            trial.outcome_from(one),
            path,
        )
        for (path, one), params in zip(kept, given, strict=True)
    ]


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
