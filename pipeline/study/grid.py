"""Hydra's own sweeps (`-m` without `hydra/sweeper=study`): every combination, in this process or in those of joblib.

Hydra calls `Grid` where such a sweep begins and ends, wherever `job` then runs. A training that an earlier grid has
finished with the same settings, data and code is reused, not repeated.
"""

import hashlib
import json
import logging
import math
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from pipeline.command import USERS_ERRORS, one_line
from pipeline.config import Settings, parse
from pipeline.errors import SweepError

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from pipeline import tracking
    from pipeline.study.report import Sweep
    from pipeline.study.trial import Outcome, Row

PARENT = "PIPELINE_GRID"  # in the environment of the jobs, whichever processes run them: the parent's record
RESULTS = Path("studies/results")  # a file for each training that can be reused

_open: "dict[str, tuple[Sweep, tracking.Run]]" = {}  # not in Grid, which joblib copies into other processes

log = logging.getLogger(__name__)


class Grid(Callback):
    """What Hydra calls at the begin and the end of a sweep; of one with another sweeper than its own, nothing."""

    def __init__(self, max_failure_rate: float, keep_models: int) -> None:
        self._max_failure_rate = max_failure_rate
        self._keep_models = keep_models

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Check the settings, and open the parent run."""
        if not _is_grid(config):
            return
        from pipeline.study import report
        from pipeline.study.worker import ONE_THREAD

        try:
            settings = _settings(config)
            if "joblib" in config.hydra.launcher._target_:
                os.environ.update(ONE_THREAD)
            os.environ[PARENT] = uuid.uuid4().hex
            sweep = report.Sweep(
                settings, os.environ[PARENT], _name(config), _space(config), _goal(settings, 0), self._keep_models
            )
            _open[os.environ[PARENT]] = sweep, report.begin(sweep)
        except USERS_ERRORS as error:  # Hydra would make a warning of it
            sys.exit(f"error: {one_line(error)}")

    def on_multirun_end(self, config: "DictConfig", **_: Any) -> None:
        """Tell what came of it, in MLflow and in the terminal; too many failures end it with exit code 1."""
        if not _is_grid(config):
            return
        from pipeline.study import board, report

        sweep, parent = _open.pop(os.environ.pop(PARENT))
        rows = _rows(Path(config.hydra.sweep.dir))
        sweep = replace(sweep, goal=_goal(sweep.settings, len(rows)))
        with parent:
            report.tell(sweep, parent, rows, {})
        board.show_end(rows, sweep.goal, report.compared(sweep, rows))
        try:
            board.check_failures(rows, self._max_failure_rate)
        except SweepError as error:
            sys.exit(f"error: {one_line(error)}")


def job(composed: "DictConfig", hydra: "HydraConf") -> float:
    """Train as one of a grid, or reuse what an earlier one has trained; return the objective, NaN where it failed.

    Args:
        composed: the config of the training.
        hydra: Hydra's own.
    """
    from pipeline.study import trial
    from pipeline.study.board import figure
    from pipeline.train import Part

    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    part = Part(os.environ.get(PARENT), {"sweep.trial": str(hydra.job.num)}, lambda epoch, metrics: None)
    key = None
    try:
        settings = trial.settings_of(composed)
        key = _key(settings)
        outcome = _reused(settings, key, overrides) or trial.train(composed, folder, overrides, part)
    except USERS_ERRORS as error:
        outcome = trial.Outcome(trial.FAILED, tuple(overrides), error=one_line(error))
    trial.save(outcome, folder, number=hydra.job.num)
    if key and outcome.state == trial.COMPLETE and not outcome.reused:
        trial.save(outcome, RESULTS / key, place=str(folder), store=_store(settings))
    value = math.nan if outcome.value is None else outcome.value
    log.info("trial %d  %s", hydra.job.num, outcome.error or figure(value))
    return value


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
    log.info("reused, as settings, data and code are the same: %s (tracking.reuse=false trains anew)", kept["place"])
    value = objective_of(settings, result)  # which may be another objective than that of the earlier grid
    return replace(trial.outcome_from(kept), value=value, overrides=tuple(overrides), reused=True)


def _store(settings: Settings) -> str:
    from pipeline import tracking
    from pipeline.tracking.address import redact

    return f"{redact(tracking.tracking_uri(settings))} {settings.tracking.experiment}"


def _rows(folder: Path) -> "list[Row]":
    """Return the trials whose outcomes stand in the folders of a sweep's jobs."""
    from pipeline.study import trial

    kept = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob(f"*/{trial.FILE}")]
    kept.sort(key=lambda one: int(one[1]["number"]))
    given = [dict(text.lstrip("+").partition("=")[::2] for text in one["overrides"]) for _, one in kept]
    varying = {key for params in given for key in params if len({other.get(key) for other in given}) > 1}
    return [
        trial.Row(
            one["number"],
            {name: value for name, value in params.items() if name in varying},
            trial.outcome_from(one),
            path,
        )
        for (path, one), params in zip(kept, given, strict=True)
    ]


def _is_grid(config: "DictConfig") -> bool:
    return bool(config.hydra.sweeper._target_.endswith(".BasicSweeper"))


def _settings(config: "DictConfig") -> Settings:
    """Return the settings that the sweep as a whole has: what varies is as in conf/."""
    from omegaconf import OmegaConf, open_dict

    own = config.copy()
    with open_dict(own):
        own.pop("hydra", None)
    return parse(OmegaConf.to_container(own, resolve=True))  # type: ignore[arg-type]


def _space(config: "DictConfig") -> dict[str, str]:
    return {text.partition("=")[0].lstrip("+~"): text.partition("=")[2] for text in config.hydra.overrides.task}


def _name(config: "DictConfig") -> str:
    """Return the grid's name, from its folder: 2026-07-01/12-30-00."""
    return "/".join(Path(config.hydra.sweep.dir).parts[-2:])


def _goal(settings: Settings, n_trials: int) -> Any:
    from pipeline.study.board import Goal

    return Goal(settings.objective, "maximize" if settings.objective.endswith("accuracy") else "minimize", n_trials)
