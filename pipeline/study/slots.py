"""Who trains which trial: slots, claimed through the storage alone, so that it holds for a file and for a database.

A slot is a trial as its user sees it: number 0 to n_trials - 1. Optuna numbers its trials in the order in which they
reach the storage, whoever sends them. A claim is a new trial of Optuna's with the slot and the worker as attributes;
of several claims of one slot the one with the lowest number holds, and the others give way. A claim whose worker has
died, or whose training was interrupted, is lost: its slot is free again, and keeps its values.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.study import options
from pipeline.study.space import Param, Value
from pipeline.study.storage import failures
from pipeline.tracking.store import ON_NODE

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

SLOT, WORKER, LOST, SEEN, OUTCOME = "slot", "worker", "lost", "seen", "outcome"  # attributes of a trial
BEAT_SECONDS = 30  # how often a worker says that it lives, for those on other machines
SILENT_SECONDS = 300  # after which they take it for dead
START_TIME, STATE = 22, 3  # fields of /proc/<pid>/stat, from 1
GONE = "ZX"  # dead, and not yet reaped by its parent


@dataclass(frozen=True)
class Plan:
    """What is to be tried.

    Attributes:
        params: what varies.
        sampler: how values are chosen.
        combinations: of sampler grid: the values of each slot; else empty.
        n_slots: trials in all.
    """

    params: Sequence[Param]
    sampler: options.Sampler
    combinations: Sequence[tuple[Value, ...]]
    n_slots: int


def claim(study: "optuna.Study", plan: Plan) -> "optuna.Trial | None":
    """Return the trial that this process is to train next, its values chosen; None where no slot is free."""
    import optuna

    while True:
        bury(study)
        trials = study.get_trials(deepcopy=False)
        taken = {trial.user_attrs[SLOT] for trial in trials if _holds(trial)}
        free = next((slot for slot in range(plan.n_slots) if slot not in taken), None)
        if free is None:
            return None
        trial_id = _enter(study, free, plan, trials)
        rivals = [trial for trial in study.get_trials(deepcopy=False) if _holds(trial, free)]
        if rivals and rivals[0]._trial_id == trial_id:
            study.sampler = options.sampler(plan.sampler, free)
            trial = optuna.Trial(study, trial_id)
            for param in plan.params:
                _suggest(trial, param)
            return trial
        lose(study, trial_id, "another worker was first")


def bury(study: "optuna.Study") -> None:
    """Free the slots of workers that have died."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if not _lives(trial):
            lose(study, trial._trial_id, "its worker died")


def bury_worker(study: "optuna.Study", name: str) -> None:
    """Free the slots of a cluster's worker that is known to be dead."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.user_attrs.get(WORKER, {}).get("host") == name:
            lose(study, trial._trial_id, "its node died")


def record_id_of(study_id: str, number: int) -> str:
    """Return the id of the record of a training, by Optuna's number: so it is known also where its node is gone."""
    return uuid.uuid5(uuid.UUID(study_id), str(number)).hex


def lost_records(study: "optuna.Study", study_id: str) -> set[str]:
    """Return the ids of the records of all trainings that do not count."""
    trials = study.get_trials(deepcopy=False)
    return {record_id_of(study_id, trial.number) for trial in trials if LOST in trial.user_attrs}


def lose(study: "optuna.Study", trial_id: int, why: str) -> None:
    """End a trial so that it does not count."""
    import optuna

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
        study._storage.set_trial_user_attr(trial_id, LOST, why)
        study._storage.set_trial_state_values(trial_id, optuna.trial.TrialState.FAIL)


def holders(study: "optuna.Study") -> "list[FrozenTrial]":
    """Return the trial that counts of each slot that has been claimed, slot by slot."""
    by_slot: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if _holds(trial):
            by_slot.setdefault(trial.user_attrs[SLOT], trial)
    return [by_slot[slot] for slot in sorted(by_slot)]


def values_of(trial: "optuna.Trial | FrozenTrial", params: Sequence[Param]) -> dict[str, str]:
    """Return what a trial has for each parameter, as its overrides have it."""
    return {param.key: param.override(trial.params[param.key]).partition("=")[2] for param in params}


@contextlib.contextmanager
def beating(trial: "optuna.Trial") -> Iterator[None]:
    """Say now and then, while the block runs, that this worker lives."""
    import optuna

    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, *failures()):  # taken for dead
                trial.set_user_attr(SEEN, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _holds(trial: "FrozenTrial", slot: int | None = None) -> bool:
    attrs = trial.user_attrs
    return SLOT in attrs and LOST not in attrs and slot in (None, attrs[SLOT])


def _enter(study: "optuna.Study", slot: int, plan: Plan, trials: "Sequence[FrozenTrial]") -> int:
    """Add a claim, with the values that an earlier, lost one of the slot has got; return its id."""
    import optuna

    params: dict[str, Any] = {}
    for trial in trials:
        if trial.user_attrs.get(SLOT) == slot and len(trial.params) == len(plan.params):
            params = trial.params
    if plan.combinations:
        params = {param.key: value for param, value in zip(plan.params, plan.combinations[slot], strict=True)}
    distributions = {param.key: param.distribution() for param in plan.params} if params else {}
    claimed = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=params,
        distributions=distributions,
        user_attrs={SLOT: slot, WORKER: _this_process(), SEEN: time.time()},
    )
    return study._storage.create_new_trial(study._study_id, claimed)


def _suggest(trial: "optuna.Trial", param: Param) -> None:
    if param.choices:
        trial.suggest_categorical(param.key, param.choices)
    elif isinstance(param.low, int):
        trial.suggest_int(param.key, param.low, int(param.high), log=param.log, step=int(param.step or 1))
    else:
        trial.suggest_float(param.key, param.low, param.high, log=param.log, step=param.step)


def _lives(trial: "FrozenTrial") -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:  # not a claim of ours
        return True
    if worker["host"] != _host():
        return time.time() - float(trial.user_attrs[SEEN]) < SILENT_SECONDS
    return bool(_started(worker["pid"]) == worker["started"])


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    """Return the machine's name since it was last started: after a restart its processes are others.

    A cluster's worker has a name of its own: whoever looks at it from another node can only go by its last sign.
    """
    if ON_NODE in os.environ:
        return os.environ[ON_NODE]
    boot = Path("/proc/sys/kernel/random/boot_id")
    return (
        f"{socket.gethostname()} {boot.read_text(encoding='ascii').strip()}"
        if boot.exists()
        else socket.gethostname()
    )


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's count; nothing if there is none such alive."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name, in parentheses, is field 2, and may hold spaces
    return "" if fields[STATE - 3] in GONE else fields[START_TIME - 3]
