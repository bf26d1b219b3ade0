"""A sweep in MLflow: one parent run with the leaderboard, the best so far and what mattered; its trials are children.

The one module of a sweep that knows of tracking. It is called again where a sweep is continued, and adds what is new.
"""

import csv
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import tracking
from pipeline.address import reason, redact
from pipeline.config import Settings
from pipeline.errors import DataError
from pipeline.study.board import Goal, best, cells, columns, command, count, errors, keys_of, ranked, told_command
from pipeline.study.trial import COMPLETE, FAILED, PRUNED, Outcome, Row
from pipeline.tracking.children import Child, children_of, end_children
from pipeline.tracking.models import has_parts
from pipeline.tracking.records import FINISHED, find_record
from pipeline.tracking.run import Run

if TYPE_CHECKING:
    import optuna

COMPARED = 20  # trials on the page of the comparison: more curves are not legible
NOTED = 10  # rows of the leaderboard in the run's description
TOLD_SECONDS = 2.0  # of waiting, before it is said
WAIT_SECONDS = 15.0  # for the runs of other processes to reach MLflow, at most
GONE = "its node died, or could not be reached, before the run had ended; the trial was trained again elsewhere"
BAR = "\\|"  # in Markdown
ENOUGH = 4  # complete trials, for importances to mean anything

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """A sweep as MLflow shows it.

    Attributes:
        settings: with the first value of all that varies.
        record_id: of the parent's record, the same in all processes and after a restart.
        name: the parent run's.
        space: what varies, as given.
        overrides: all, as given.
        goal: what is sought.
        keep_models: how many trials get their whole model.
        everywhere: calls a function on each node where trials may have been trained; None: all were trained here.
    """

    settings: Settings
    record_id: str
    name: str
    space: Mapping[str, str]
    overrides: Sequence[str]
    goal: Goal
    keep_models: int
    everywhere: Callable[..., list[tuple[str, Any]]] | None = None


def begin(sweep: Sweep) -> tracking.Run:
    """Return the parent run, open; where others are to find it in the store, it is there if it can be."""
    goal = sweep.goal
    params = {"objective": goal.objective, "direction": goal.direction, **sweep.space}
    tags = {"sweep": sweep.name, "sweep.n_trials": str(goal.n_trials)}
    parent = tracking.open_parent(sweep.settings, sweep.record_id, f"sweep {sweep.name}", params, tags)
    tracking.log_origin(parent, sweep.settings, sweep.overrides)
    if sweep.everywhere:
        end = time.monotonic() + WAIT_SECONDS
        while parent.run_id is None and not parent._fate.away and time.monotonic() < end:
            time.sleep(0.1)
    return parent


def end_abandoned(sweep: Sweep, parent: tracking.Run, is_abandoned: Callable[[Child], bool]) -> None:
    """End the runs of trials that do not count, as their node is gone: nobody else would."""
    if parent.run_id is None:
        return
    try:
        found = [child for child in children_of(sweep.settings, parent.run_id) if is_abandoned(child)]
        end_children(found, GONE)
    except Exception as error:  # of MLflow, the network or a database: a run more that seems to run
        log.warning("the runs of dead nodes are still shown as running: %s", reason(error))


def tell(
    sweep: Sweep,
    parent: tracking.Run,
    rows: Sequence[Row],
    importances: Mapping[str, float],
    *,
    is_over: bool = True,
) -> None:
    """Write what came of a sweep into its parent run.

    Args:
        sweep: what it is.
        parent: its run, which `begin` gave.
        rows: all trials.
        importances: by what varies, adding up to 1; empty where they are not known.
        is_over: whether models are made of the best trials.
    """
    _add_history(sweep, parent, rows)
    if importances:
        parent.log_text(json.dumps(importances, indent=2) + "\n", "importances.json")
    parent.log_text(_as_csv(rows, sweep.goal), "leaderboard.csv")
    winner = best(rows, sweep.goal.direction)
    tags = {f"n_{state}": str(count(rows, state)) for state in (COMPLETE, PRUNED, FAILED)}
    if winner:
        tags |= {"best.trial": str(winner.number), "best.command": command(winner)}
        tags |= {f"best.{key}": value for key, value in winner.params.items()}
    reused = _reused_runs(sweep, rows)
    tags |= {f"reused.{number}": run_id for number, run_id in reused.items()}
    parent.set_tags(tags | {"mlflow.note.content": _note(rows, sweep.goal, importances, reused)})
    if is_over:
        _keep_models(sweep, rows)


def end_run(settings: Settings, outcome: Outcome) -> None:
    """End the run of a complete trial whose process died after the training, and before the run's end."""
    try:
        record = find_record(str(outcome.record_id))
        if record.state.status == FINISHED:
            return
    except DataError:  # it was made on another machine, removed, or damaged
        return
    late = {"error": "none: its process died when all was trained, before it could end the run"}
    Run(record, settings).end(FINISHED, late, wait=False)


def compared(sweep: Sweep, parent: tracking.Run, rows: Sequence[Row]) -> str | None:
    """Return where the best trials are compared, as soon as MLflow has them; None if it has none.

    Args:
        sweep: what it is.
        parent: its run, ended: where that cannot be brought to MLflow, nothing is waited for.
        rows: all trials.
    """
    store = redact(tracking.tracking_uri(sweep.settings))
    wanted = [row.outcome.record_id for row in ranked(rows, sweep.goal.direction) if row.outcome.record_id][:COMPARED]
    started, told = time.monotonic(), False
    while True:
        elsewhere = _elsewhere(sweep, parent)
        found = [_run_id(record_id, store) or elsewhere.get(record_id) for record_id in wanted]
        waited = time.monotonic() - started
        if all(found) or waited > WAIT_SECONDS or _is_away(parent):
            break
        if waited > TOLD_SECONDS and not told:
            log.info("waiting for MLflow, which has %d of %d runs", sum(map(bool, found)), len(found))
            told = True
        time.sleep(0.2)
    if _is_away(parent):
        return None
    run_ids = [run_id for run_id in found if run_id]
    return str(tracking.call("shown_at", sweep.settings, run_ids)) if run_ids else None


def _elsewhere(sweep: Sweep, parent: tracking.Run) -> dict[str, str]:
    """Return the MLflow runs of a sweep whose records may be on other machines, by record."""
    if sweep.everywhere is None or parent.run_id is None:
        return {}
    try:
        return {child.record_id: child.run_id for child in children_of(sweep.settings, parent.run_id)}
    except Exception as error:  # of MLflow, the network or a database: the page shows fewer
        log.debug("%s", reason(error))
        return {}


def importances_of(study: "optuna.Study") -> dict[str, float]:
    """Return how much of the differences between a study's trials each parameter explains; empty: unknown."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))) < ENOUGH:
        return {}
    try:
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError) as error:  # all values equal, for one
        log.debug("no importances: %s", error)
        return {}
    return {name: round(value, 4) for name, value in found.items() if value == value}  # noqa: PLR0124 – not NaN


def _add_history(sweep: Sweep, parent: tracking.Run, rows: Sequence[Row]) -> None:
    """Add a point for each trial that the run has none of: its objective, and the best up to it.

    A point's step is the trial's number. Behind a trial that is still missing there is none: it may be the best.
    """
    goal = sweep.goal
    known = {points.step for points, _ in find_record(sweep.record_id).points()}
    so_far = None
    for i, row in enumerate(rows):
        if row.number != i:
            break
        so_far = best([row] if so_far is None else [so_far, row], goal.direction)
        if row.number in known or row.outcome.value is None:
            continue
        points = {goal.objective: row.outcome.value}
        if so_far and so_far.outcome.value is not None:
            points[f"best_{goal.objective}"] = so_far.outcome.value
        parent.on_epoch_end(row.number - 1, points)  # which adds 1, as epochs are counted from 1


def _as_csv(rows: Sequence[Row], goal: Goal) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = keys_of(rows)
    writer.writerow([*columns(keys, goal), "record", "error"])
    for row in ranked(rows, goal.direction):
        writer.writerow([*cells(row, keys), row.outcome.record_id or "", row.outcome.error or ""])
    return text.getvalue()


def _reused_runs(sweep: Sweep, rows: Sequence[Row]) -> dict[int, str]:
    """Return the MLflow runs of reused trials, by number: they are another sweep's children."""
    store = redact(tracking.tracking_uri(sweep.settings))
    found = {row.number: _run_id(str(row.outcome.record_id), store) for row in rows if row.outcome.reused}
    return {number: run_id for number, run_id in found.items() if run_id}


def _note(
    rows: Sequence[Row], goal: Goal, importances: Mapping[str, float], reused: Mapping[int, str] | None = None
) -> str:
    """Return the run's description, as Markdown."""
    keys = keys_of(rows)
    names = columns(keys, goal)
    table = [names, ["---"] * len(names), *(cells(row, keys) for row in ranked(rows, goal.direction)[:NOTED])]
    lines = [f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in table]
    lines += [f"\n{told}" for told in errors(rows)[:NOTED]]
    winner = best(rows, goal.direction)
    if winner:
        lines += ["", f"The winner {told_command(winner, '`')}"]
    if reused:
        lines += [
            "",
            "Reused: " + ", ".join(f"trial {number} is run `{run_id}`" for number, run_id in reused.items()),
        ]
    if importances:
        told = ", ".join(f"{name} {value:.0%}" for name, value in importances.items())
        lines += ["", f"What the differences come from: {told}"]
    return "\n".join(lines)


def _keep_models(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Have MLflow make the models of the best trials, and remove what those of the others would be made from.

    Of a reused trial nothing is removed, as it is another sweep's.
    """
    known = [row for row in ranked(rows, sweep.goal.direction) if row.outcome.record_id]
    chosen = [row for row in known[: sweep.keep_models] if row.outcome.state == COMPLETE]
    kept = [str(row.outcome.record_id) for row in chosen]
    others = [str(row.outcome.record_id) for row in known if row not in chosen and not row.outcome.reused]
    made = set(make_models(sweep.settings, kept, others))
    if sweep.everywhere:
        for _, found in sweep.everywhere(make_models, sweep.settings, kept, others):
            made |= set(found) if isinstance(found, list) else set()
    without = [row for row in chosen if row.outcome.record_id not in made]
    if without and sweep.everywhere:
        for row in without:
            log.warning("trial %d: its node is gone, so MLflow gets its weights but no model", row.number)
    elif without:
        log.warning(
            "%s: keep_models=%d, but what a model is made from was removed of trial %s, which was not among the "
            "best%s",
            *(sweep.name, sweep.keep_models, ", ".join(str(row.number) for row in without)),
            " of an earlier sweep; tracking.reuse=false trains it anew" if without[0].outcome.reused else " before",
        )


def make_models(settings: Settings, kept: Sequence[str], others: Sequence[str]) -> list[str]:
    """Have MLflow make the models of those runs whose records are here, and return those of which it has one.

    Args:
        settings: those of tracking are read.
        kept: the records whose models are made.
        others: those of which what a model would be made from is removed.
    """
    store = redact(tracking.tracking_uri(settings))
    made = []
    for record_id in (*others, *kept):
        try:
            record = find_record(record_id)
        except DataError as error:  # it was made on another machine, or removed
            log.debug("%s", error)
            continue
        if record_id not in kept:
            tracking.drop_model_of(record_id)
        elif has_parts(record):
            tracking.log_model_of(settings, record_id)
            made.append(record_id)
        elif record.delivered(store).model_id is not None:
            made.append(record_id)
    return made


def _run_id(record_id: str, store: str) -> str | None:
    try:
        return find_record(record_id).delivered(store).run_id
    except DataError:
        return None


def _is_away(run: tracking.Run) -> bool:
    return run.run_id is None or bool(run._fate.away)
