"""Sweeps by the real command: parallel, joined, killed, resumed, refused; and what MLflow then shows of them."""

import collections
import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import Server
from tracked import wait_until
from whole import runs_of

from pipeline.study.workers import STATM

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("net=scratch", "synthetic.n_samples=300", "synthetic.n_train=200", "scratch.epochs=5")
SPACE = ("scratch.learning_rate=tag(log, interval(1e-2, 1))", "scratch.n_hidden=interval(2, 12)")
DIVERGING = ("scratch.activation=relu", "scratch.epochs=9", "scratch.learning_rate=1e200,0.1")
LEFT_SECONDS = 300  # for a courier, on a machine that is busy with others
PRUNED = "KILLED pruned"
TRIAL_ENDED = ("FINISHED", PRUNED)  # else KILLED is of one that was lost, and tried again


@dataclass(frozen=True)
class Place:
    """A folder in which sweeps run, with an MLflow store of its own."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.train", "-m", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen, code: int = 0) -> subprocess.CompletedProcess:
        """Wait for a command, and return what it said."""
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{out[-3000:]}\n{err[-3000:]}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        return self.end(self.start(*arguments), code)

    def study(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        return self.run("hydra/sweeper=study", *arguments, code=code)

    def outcomes(self, name: str) -> dict[int, dict]:
        files = (self.folder / "multirun" / name).glob("*/outcome.json")
        return {int(file.parent.name): json.loads(file.read_text()) for file in files}

    def trials(self, name: str):
        """Return the trials of a study, as Optuna has them."""
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(self.folder / f"studies/{name}.journal")))
        return storage.get_all_trials(storage.get_study_id_from_name(name))

    def counted(self, name: str) -> Counter:
        """Return how often each slot has a trial that counts and has ended."""
        ended = [trial for trial in self.trials(name) if trial.state.is_finished() and "lost" not in trial.user_attrs]
        return Counter(trial.user_attrs["slot"] for trial in ended)

    def query(self, sql: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    def children(self, name: str, n_trials: int) -> dict[str, list[str]]:
        """Return the statuses of the child runs by the number of their trial, once so many trials have ended."""
        sql = (
            "SELECT t.value, r.status || coalesce(' ' || p.key, '') FROM runs r "
            "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'sweep.trial' "
            f"JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'sweep' AND s.value = '{name}' "
            "LEFT JOIN tags p ON p.run_uuid = r.run_uuid AND p.key = 'pruned'"
        )

        def ended() -> list[tuple] | None:
            runs = self.query(sql)
            of_trials = {number for number, status in runs if status in (*TRIAL_ENDED, "FAILED")}
            is_running = any(status == "RUNNING" for _, status in runs)
            return runs if len(of_trials) == n_trials and not is_running else None

        found: dict[str, list[str]] = {}
        for number, status in wait_until(ended, LEFT_SECONDS):
            found.setdefault(number, []).append(status)
        return found


@pytest.fixture
def place(environment, new_store, tmp_path) -> Place:
    uri = new_store(tmp_path)
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "PIPELINE_RECORDS": str(tmp_path / "records")}
    return Place(tmp_path, environment | own)


@pytest.mark.skipif(not STATM.exists(), reason="only Linux tells what a process holds in this way")
def test_a_worker_that_has_grown_is_replaced_and_the_study_goes_on(place):
    jobs = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.max_worker_memory_mb=1")
    done = place.study("hydra.sweeper.study_name=grown", *SMALL, *SPACE, *jobs)
    assert place.counted("grown") == dict.fromkeys(range(4), 1)
    assert place.children("grown", 4) == {str(number): ["FINISHED"] for number in range(4)}
    told = re.findall(r"a worker holds \d+ MB, more than hydra\.sweeper\.max_worker_memory_mb", done.stderr)
    assert len(told) == 4
    assert "has died" not in done.stderr


def test_two_workers_and_a_second_terminal_share_one_study(place):
    """From the first trial to the total, then on to a larger one; then refused, as something else is wanted."""
    sweep = ("hydra.sweeper.study_name=shared", *SMALL, *SPACE)
    done = place.study(*sweep, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2")
    assert place.counted("shared") == dict.fromkeys(range(6), 1)
    assert len(re.findall(r"^trial \d+ \(\d/6\)  val_loss", done.stderr, re.MULTILINE)) == 6
    assert "compared: http://127.0.0.1:5000/#/experiments/" in done.stdout
    assert re.search(r"dvc exp run .*-S scratch.epochs=5 .*-S scratch.n_hidden=\d+", done.stdout)

    before = place.outcomes("shared")
    terminals = [place.start("hydra/sweeper=study", *sweep, "hydra.sweeper.n_trials=10") for _ in range(2)]
    told = [place.end(terminal) for terminal in terminals]
    assert place.counted("shared") == dict.fromkeys(range(10), 1)
    assert {number: outcome for number, outcome in place.outcomes("shared").items() if number < 6} == before
    for terminal in told:
        begun = re.search(r"study shared: goes on after (\d+) of 10 trials", terminal.stderr)
        assert begun is None or 6 <= int(begun[1]) < 10  # None: the other terminal had done them all
    assert any("study shared: goes on after 6 of 10 trials" in terminal.stderr for terminal in told)
    for terminal in told:
        assert len(re.findall(r"^\d+ +0\.\d{4}", terminal.stdout, re.MULTILINE)) == 10

    again = place.study(*sweep, "hydra.sweeper.n_trials=10")
    assert again.stdout.startswith("trial")
    assert place.counted("shared") == dict.fromkeys(range(10), 1)

    changed = ("hydra.sweeper.study_name=shared", *SMALL, SPACE[0], "scratch.n_hidden=interval(2, 13)")
    (line,) = place.study(*changed, "scratch.epochs=6", code=1).stderr.splitlines()
    assert "study shared was begun" in line or "shared was begun with other settings" in line
    assert "scratch.epochs: 5 → 6" in line
    assert "scratch.n_hidden: interval(2, 12) → interval(2, 13)" in line

    ((parent, status),) = place.query("SELECT run_uuid, status FROM runs WHERE name = 'sweep shared'")
    assert status == "FINISHED"
    assert place.children("shared", 10) == {str(number): ["FINISHED"] for number in range(10)}
    held = place.query("SELECT DISTINCT run_uuid FROM tags WHERE key = 'mlflow.parentRunId'")
    assert len(held) == 10
    assert place.query("SELECT DISTINCT value FROM tags WHERE key = 'mlflow.parentRunId'") == [(parent,)]
    tags = dict(place.query(f"SELECT key, value FROM tags WHERE run_uuid = '{parent}'"))
    assert tags["n_complete"] == "10"
    assert {"git.commit", "git.dirty", "cpu", "cpus", "python", "dvc.lock_md5", "settings_sha256"} <= tags.keys()
    assert tags["overrides"].endswith("scratch.n_hidden=interval(2, 12)")
    assert "| trial | val_loss |" in tags["mlflow.note.content"]
    points = place.query(f"SELECT step, value FROM metrics WHERE run_uuid = '{parent}' AND key = 'best_val_loss'")
    assert [step for step, _ in sorted(points)] == list(range(10))
    best = [value for _, value in sorted(points)]
    assert best == sorted(best, reverse=True)
    table = (place.folder / "mlartifacts" / parent / "artifacts/leaderboard.csv").read_text().splitlines()
    assert table[0].startswith("trial,val_loss,scratch.learning_rate,scratch.n_hidden,")
    assert len(table) == 11
    models = place.query("SELECT count(*) FROM logged_models")
    assert models[0][0] <= 2  # of the best of six, and of the best of ten


def n_begun(place: Place) -> int:
    """Return how many trainings of trials have begun."""
    return sum('"parent": "' in path.read_text() for path in place.folder.glob("records/*/run.json"))


def kill_at_random(place: Place, arguments: tuple[str, ...], rng: random.Random) -> bool:
    """Start a sweep; kill its process group at a random moment after its third training, when one has ended.

    Returns:
        Whether it was not at its end before.
    """
    wanted = n_begun(place) + 3
    process = place.start(*arguments)
    while n_begun(place) < wanted and process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    is_running = process.poll() is None
    if is_running:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return is_running


def check_whole(place: Place, name: str, n_trials: int) -> None:
    """Check that each trial has ended exactly once, and that MLflow shows no run as running."""
    trials = place.trials(name)
    assert place.counted(name) == dict.fromkeys(range(n_trials), 1)
    assert all(trial.state.is_finished() for trial in trials)
    lost = [trial.user_attrs["slot"] for trial in trials if "lost" in trial.user_attrs]
    by_slot = {trial.user_attrs["slot"]: trial.params for trial in trials if "lost" not in trial.user_attrs}
    for trial in trials:
        if "lost" in trial.user_attrs and len(trial.params) == 2:
            assert trial.params == by_slot[trial.user_attrs["slot"]]  # what was lost was tried again
    children = place.children(name, n_trials)
    assert set(children) == {str(number) for number in range(n_trials)}
    for number, statuses in children.items():
        assert "RUNNING" not in statuses
        assert sum(map(statuses.count, TRIAL_ENDED)) == 1, (number, statuses, lost)
    assert place.query("SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


def killed_study(place: Place, *arguments: str, seed: int, rounds: int, n_trials: int) -> None:
    sweep = ("hydra/sweeper=study", "hydra.sweeper.study_name=killed", *SMALL, "scratch.epochs=3000", *SPACE)
    sweep = (*sweep, f"hydra.sweeper.n_trials={n_trials}", "hydra.sweeper.n_jobs=2", *arguments)
    rng = random.Random(seed)
    kept: dict[int, dict] = {}
    n_killed = 0
    for _ in range(rounds):
        n_killed += kill_at_random(place, sweep, rng)
        outcomes = place.outcomes("killed")
        assert {number: outcomes[number] for number in kept} == kept  # nothing is overwritten
        kept = outcomes
    assert kept
    assert n_killed  # a machine that is busy with others may let a sweep come to its end before the kill
    assert any("lost" in trial.user_attrs or not trial.state.is_finished() for trial in place.trials("killed"))
    place.end(place.start(*sweep))
    assert {number: place.outcomes("killed")[number] for number in kept} == kept
    check_whole(place, "killed", n_trials)
    workers = {trial.user_attrs["worker"]["pid"] for trial in place.trials("killed") if "worker" in trial.user_attrs}
    assert len(workers) > n_killed + 1  # so that at least once two were at work


def test_a_killed_study_goes_on_to_its_total(place):
    killed_study(place, seed=1, rounds=1, n_trials=6)


@pytest.mark.slow
def test_a_study_of_twenty_trials_killed_ten_times_is_whole(place):
    killed_study(place, "hydra.sweeper.pruner.name=median", seed=2, rounds=10, n_trials=20)
    assert any(outcome["state"] == "pruned" for outcome in place.outcomes("killed").values())


def test_failed_trials_are_counted_and_do_not_end_the_sweep(place):
    grid = ("hydra.sweeper.sampler.name=grid", "hydra.sweeper.study_name=some", "hydra.sweeper.max_failure_rate=0.4")
    done = place.study(*grid, *SMALL, *DIVERGING, code=1)
    assert "2 trials, of which 0 pruned and 1 failed" in done.stdout
    told = "error: 1 of 2 trials failed, where max_failure_rate is 0.4; the first, 0: TrainingError: scratch: epoch"
    assert told in done.stderr
    assert place.outcomes("some")[1]["state"] == "complete"
    assert place.children("some", 2) == {"0": ["FAILED"], "1": ["FINISHED"]}


def test_pruned_trials_keep_their_curves_and_are_no_failures(place):
    rates = "scratch.learning_rate=choice(1,0.9,0.8,1e-5,2e-5)"
    pruning = ("hydra.sweeper.pruner.name=median", "hydra.sweeper.pruner.startup_trials=3")
    epochs = ("scratch.epochs=40", "hydra.sweeper.max_failure_rate=0")
    place.study(*SMALL, rates, "hydra.sweeper.sampler.name=grid", "hydra.sweeper.study_name=p", *pruning, *epochs)
    states = [outcome["state"] for _, outcome in sorted(place.outcomes("p").items())]
    assert states == ["complete", "complete", "complete", "pruned", "pruned"]
    statuses = place.children("p", 5)
    assert [statuses[str(number)] for number in range(5)] == [["FINISHED"]] * 3 + [[PRUNED]] * 2
    pruned = place.query("SELECT run_uuid FROM tags WHERE key = 'pruned' AND value = 'true'")
    for (run_id,) in pruned:
        ((n_points,),) = place.query(f"SELECT count(*) FROM metrics WHERE run_uuid = '{run_id}' AND key = 'val_loss'")
        assert 0 < n_points < 40
    assert len(pruned) == 2


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "joblib"])
def test_a_grid_trains_what_is_new_and_reuses_the_rest(place, launcher):
    grid = (*SMALL, f"hydra/launcher={launcher}", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []))
    first = place.run(*grid, "scratch.n_hidden=2,3")
    assert "reused" not in first.stdout
    assert "dvc exp run -S synthetic.n_samples=300" in first.stdout
    more = place.run(*grid, "scratch.n_hidden=3,4")
    assert len(re.findall(r"^\d .* reused *$", more.stdout, re.MULTILINE)) == 1
    assert place.query("SELECT count(*) FROM tags WHERE key = 'sweep.trial'") == [(3,)]
    parents = "SELECT count(*) FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE name LIKE 'sweep %'"
    assert place.query(f"{parents} AND status = 'FINISHED' AND key = 'git.commit'") == [(2,)]
    if launcher == "basic":
        place.run(*grid, "scratch.n_hidden=3,4", "tracking.reuse=false")
        assert place.query("SELECT count(*) FROM tags WHERE key = 'sweep.trial'") == [(5,)]


def test_a_grid_goes_on_after_a_failed_job(place):
    done = place.run(*SMALL, *DIVERGING, "hydra.callbacks.grid.max_failure_rate=0", code=1)
    assert "2 trials, of which 0 pruned and 1 failed" in done.stdout
    assert "error: 1 of 2 trials failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scratch.no_such=interval(0, 1)"], "scratch.no_such"),
        (
            ["objective=f1", SPACE[0]],
            "objective: one of loss, accuracy, val_loss, val_accuracy is needed, but got 'f1'",
        ),
        (["mnist=digits", SPACE[0]], "mnist=digits: an override that the run reads is needed, but net=scratch on"),
        ([SPACE[0], "hydra/launcher=joblib"], "hydra/launcher: none is needed, as a study starts its own workers"),
        ([SPACE[0], "hydra.sweep.dir=here"], "hydra.sweep.dir: none is needed, as a study's trials are in multirun/"),
        ([SPACE[0], "hydra.sweeper.storage=postgresql://127.0.0.1:1/x"], "cannot be opened"),
        ([SPACE[0], "hydra.sweeper.storage=postgresql://ann:secret@127.0.0.1:1/x"], "an address without user"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_before_anything_is_trained(place, arguments, message):
    (line,) = place.study(*SMALL, *arguments, code=1).stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "secret" not in line
    assert place.query("SELECT count(*) FROM runs") == [(0,)]


GRID = ("hydra.sweeper.sampler.name=grid", "scratch.learning_rate=0.1,0.2,0.3")
RATES = "scratch.learning_rate=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


def wait_for_trainings(place: Place, process: subprocess.Popen, n_trainings: int) -> None:
    """Wait until so many trainings of trials have begun; but for one a worker, these have ended, their runs too."""
    while n_begun(place) < n_trainings:
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments",
    [
        ("hydra/sweeper=study", "hydra.sweeper.sampler.name=grid", "hydra.sweeper.n_jobs=1"),
        pytest.param(
            ("hydra/sweeper=study", "hydra.sweeper.sampler.name=grid", "hydra.sweeper.n_jobs=2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("hydra/launcher=basic",), marks=pytest.mark.slow),
        pytest.param(("hydra/launcher=basic", "hydra.sweep.dir=multirun/here"), marks=pytest.mark.slow),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    ],
    ids=["study", "study of two", "grid", "grid in a folder", "joblib"],
)
def test_ctrl_c_ends_a_sweep_with_one_line_and_a_leaderboard(place, arguments):
    process = place.start(*arguments, *SMALL, "scratch.epochs=3000", RATES)
    wait_for_trainings(place, process, 5)
    os.killpg(process.pid, signal.SIGINT)
    told = place.end(process, code=130)
    again = r" with another hydra\.sweep\.dir" if "here" in arguments[-1] else ""
    line = rf": interrupted after \d of 9 trials; the same command{again} (goes on|reuses what has finished)$"
    assert len(re.findall(line, told.stderr, re.MULTILINE)) == 1
    if "joblib" not in arguments[0]:  # whose processes may be hit within a weakref's callback
        assert "Traceback" not in told.stderr
    assert told.stdout == ""
    end = time.monotonic() + LEFT_SECONDS
    ended = collections.Counter()
    while (ended["FINISHED"] < 3 or ended["RUNNING"]) and time.monotonic() < end:
        time.sleep(0.2)
        ended = collections.Counter(status for (status,) in place.query("SELECT status FROM runs"))
    assert ended["FINISHED"] >= 3
    assert not ended["RUNNING"]
    ((parent, status),) = place.query("SELECT run_uuid, status FROM runs WHERE name LIKE 'sweep %'")
    assert status == "KILLED"
    ((note,),) = place.query(f"SELECT value FROM tags WHERE run_uuid = '{parent}' AND key = 'mlflow.note.content'")
    assert note.startswith("| trial | val_loss | scratch.learning_rate |")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["range(2, 4, 0)", "range(1, 9)"], "finite numbers and a step other than 0 are needed in a range"),
        (["range(1, 1000)", "range(1, 1000)"], "a grid needs at most 100,000 trials, but got 998,001"),
    ],
)
def test_a_grid_that_cannot_be_counted_off_is_one_line(place, values, message):
    varied = (f"scratch.n_hidden={values[0]}", f"scratch.batch_size={values[1]}")
    (line,) = place.run(*SMALL, *varied, code=1).stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_file_in_the_place_of_multirun_is_one_line_and_begins_no_study(place):
    (place.folder / "multirun").touch()
    for sweep in ("hydra/sweeper=study", "hydra/launcher=basic"):
        (line,) = place.run(sweep, *SMALL, GRID[1], code=1).stderr.splitlines()
        assert line.startswith("error: multirun: a folder is needed, but it cannot be made")
    (place.folder / "multirun").unlink()
    place.study(*SMALL, *GRID)  # another sampler: it would be refused if the study had begun


def test_a_sampler_grid_tells_what_it_leaves_out_and_fewer_trials_add_none(place):
    sweep = (*SMALL, *GRID, "hydra.sweeper.study_name=g", "hydra.sweeper.keep_models=0")
    done = place.study(*sweep, "hydra.sweeper.n_trials=2")
    assert "the grid has 3 combinations, of which n_trials=2 are tried\n" in done.stderr
    assert place.counted("g") == dict.fromkeys(range(2), 1)
    fewer = place.study(*sweep, "hydra.sweeper.n_trials=1")
    assert "study g: has 2 trials already, so that n_trials=1 adds none\n" in fewer.stderr
    assert "val_loss" not in fewer.stderr
    assert len(re.findall(r"^\d +0\.\d{4}", fewer.stdout, re.MULTILINE)) == 2
    assert place.counted("g") == dict.fromkeys(range(2), 1)


@pytest.mark.slow
def test_a_dead_worker_is_told_and_its_trial_is_trained_again(place):
    sweep = ("hydra.sweeper.study_name=d", *SMALL, "scratch.epochs=3000", *SPACE, "hydra.sweeper.n_trials=8")
    process = place.start("hydra/sweeper=study", *sweep, "hydra.sweeper.n_jobs=2")
    wait_for_trainings(place, process, 3)
    newest = [trial for trial in place.trials("d") if "worker" in trial.user_attrs][-1]  # whose worker trains
    os.kill(newest.user_attrs["worker"]["pid"], signal.SIGKILL)
    told = place.end(process)
    assert told.stderr.count("a worker has died (exit code -9); the others go on\n") == 1
    assert place.counted("d") == dict.fromkeys(range(8), 1)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["hydra/sweeper=study", "hydra/launcher=basic"])
def test_all_trials_failed_is_exit_code_1(place, sweep):
    rates = "scratch.learning_rate=1e200,1e201"
    more = [GRID[0]] if "study" in sweep else []
    done = place.run(sweep, *SMALL, *DIVERGING[:-1], rates, *more, code=1)
    assert "error: all 2 trials failed; the first, 0: TrainingError: scratch: epoch 1 of 9" in done.stderr
    assert "Traceback" not in done.stderr


def write_images(path: Path, seed: int, n_images: int) -> None:
    rng = random.Random(seed)
    names = [f"{i}x{j}" for i in range(1, 29) for j in range(1, 29)]
    rows = [[number % 10, *(rng.randrange(256) for _ in names)] for number in range(n_images)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [["label", *names], *rows]) + "\n")


@pytest.mark.slow
def test_a_study_whose_data_have_changed_is_refused(place):
    files = [place.folder / "train.csv", place.folder / "test.csv"]
    for seed, file in enumerate(files):
        write_images(file, seed, 50)
    sweep = ("net=scratch", "scratch.dataset=mnist", "scratch.epochs=2", *GRID, "hydra.sweeper.study_name=own")
    sweep = (*sweep, f"mnist.train_csv={files[0]}", f"mnist.test_csv={files[1]}")
    place.study(*sweep, "hydra.sweeper.n_trials=2")
    write_images(files[0], 2, 50)
    for n_trials in (2, 3):  # one that has come to its end, and one that would go on
        *_, line = place.study(*sweep, f"hydra.sweeper.n_trials={n_trials}", code=1).stderr.splitlines()
        assert re.match(r"error: .*: own was begun with other data: mnist: \w{32} → \w{32}; give it another", line)
    assert place.counted("own") == dict.fromkeys(range(2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("keep_models", [0, 2])
def test_so_many_of_the_best_get_their_model(place, keep_models):
    place.study(*SMALL, *GRID, "hydra.sweeper.study_name=k", f"hydra.sweeper.keep_models={keep_models}")
    assert place.children("k", 3) == {str(number): ["FINISHED"] for number in range(3)}
    end = time.monotonic() + LEFT_SECONDS
    while len(place.query("SELECT 1 FROM logged_models")) < keep_models and time.monotonic() < end:
        time.sleep(0.2)
    assert len(place.query("SELECT 1 FROM logged_models")) == keep_models
    more = place.study(*SMALL, *GRID, "hydra.sweeper.study_name=k", "hydra.sweeper.keep_models=3")
    told = re.findall(r"^k: keep_models=3, but .* of trial (.*), which was not", more.stderr, re.MULTILINE)
    assert [len(numbers.split(", ")) for numbers in told] == [3 - keep_models]


@pytest.mark.parametrize(
    "sweep", [("hydra/sweeper=study", GRID[0]), ("hydra/launcher=basic",)], ids=["study", "grid"]
)
def test_a_dead_tracking_server_costs_a_sweep_nothing_but_its_page(place, sweep):
    away = Place(place.folder, place.environment | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    started = time.monotonic()
    done = away.run(*sweep, *SMALL, GRID[1])
    assert time.monotonic() - started < 240  # MLflow's own client tries for minutes, at each call of each run
    assert len(re.findall(r"^\d +0\.\d{4}", done.stdout, re.MULTILINE)) == 3
    assert "compared" not in done.stdout
    told = done.stderr + done.stdout  # where Hydra's handlers were just in place, its job's
    assert told.count("http://127.0.0.1:9: the tracking store cannot be reached") == 1


def test_a_grid_tells_each_trial_and_what_it_reuses(place):
    first = place.run(*SMALL, "scratch.n_hidden=2,3")
    lines = first.stderr.splitlines()
    assert re.fullmatch(r"trial 0 \(1/2\)  val_loss [\d.]+  scratch.n_hidden=2  best [\d.]+ \(trial 0\)", lines[0])
    assert re.match(r"trial 1 \(2/2\)  val_loss [\d.]+  scratch.n_hidden=3  best ", lines[1])
    again = place.run(*SMALL, "scratch.n_hidden=3,4").stderr.splitlines()
    assert again[0].startswith("reused, as settings, data and code are the same: ")
    assert again[1].startswith("trial 0 (1/2)  reused  val_loss ")
    assert again[2].startswith("trial 1 (2/2)  val_loss ")


@pytest.mark.slow
def test_a_grid_over_both_nets_in_joblibs_processes(place):
    tiny = ("keras.dataset=synthetic", "keras.epochs=2", "keras.jit_compile=false")
    both = ("net=scratch,keras", *SMALL[1:], *tiny, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = place.run(*both)
    assert len(re.findall(r"^\d +0\.\d{4} +(?:scratch|keras) .* done$", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"the winner \(net=(scratch|keras)\) as the project's own result: dvc exp run", done.stdout)


@pytest.mark.slow
def test_the_keras_net_is_pruned(place):
    tiny = ("net=keras", "keras.dataset=synthetic", *SMALL[1:3], "keras.units=8", "keras.epochs=12")
    pruning = ("hydra.sweeper.pruner.name=median", "hydra.sweeper.pruner.startup_trials=2", GRID[0])
    rates = "keras.learning_rate=0.05,0.02,1e-6"
    place.study(*tiny, "keras.jit_compile=false", *pruning, rates, "hydra.sweeper.study_name=k")
    states = [outcome["state"] for _, outcome in sorted(place.outcomes("k").items())]
    assert states == ["complete", "complete", "pruned"]
    assert place.children("k", 3) == {"0": ["FINISHED"], "1": ["FINISHED"], "2": [PRUNED]}


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["hydra/sweeper=study", "--cfg", "hydra"]])
def test_help_and_settings_load_nothing_that_trains(environment, arguments):
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.train", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in loaded
    assert not loaded & {"tensorflow", "keras", "mlflow", "optuna", "numpy"}


@pytest.fixture
def server(place):
    """MLflow's own server on the store of the place."""
    running = Server(place.folder, place.environment)
    running.start()
    yield running
    running.kill()


@pytest.mark.slow
def test_two_sweeps_at_once_and_mlflows_pages_open_lose_no_point(place, server):
    from mlflow import MlflowClient

    answers: list[int] = []
    ended = threading.Event()

    def read() -> None:
        """Ask for what the page of an experiment asks for, again and again."""
        while not ended.wait(0.05):
            answers.append(len(runs_of(MlflowClient(server.uri))))

    reader = threading.Thread(target=read)
    reader.start()
    both = [
        place.start(
            "hydra/sweeper=study", f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_trials=4", *SMALL, *SPACE
        )
        for name in ("one", "two")
    ]
    told = [place.end(process) for process in both]
    ended.set()
    reader.join()
    log = (place.folder / "server.log").read_text()
    assert "locked" not in log
    assert " 500 " not in log
    assert answers == sorted(answers)
    assert answers[-1] > 1
    assert all("locked" not in done.stderr for done in told)
    for name in ("one", "two"):
        assert place.children(name, 4) == {str(number): ["FINISHED"] for number in range(4)}
    points = place.query(
        "SELECT count(*) FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'sweep.trial' "
        "WHERE m.key = 'val_loss' GROUP BY m.run_uuid"
    )
    assert points == [(5,)] * 8


def test_bash_completes_overrides(environment, tmp_path):
    """Of what stands in the README: the function is loaded, and called as bash calls it for a Tab."""
    script = """
source {root}/completion.bash
COMP_WORDS=(python -m pipeline.train keras.unit); COMP_CWORD=3
COMP_LINE="python -m pipeline.train keras.unit"; COMP_POINT=${{#COMP_LINE}}
_pipeline_train python keras.unit pipeline.train
echo "${{COMPREPLY[@]}}"
COMP_WORDS=(python -m pipeline.train net=scratch keras=); COMP_CWORD=4
COMP_LINE="python -m pipeline.train -m 'keras.l2=tag(log, interval(1, 2))' net=scratch keras="
COMP_POINT=${{#COMP_LINE}}
_pipeline_train python keras= net=scratch
echo "${{COMPREPLY[@]}}"
complete -p python
"""
    done = subprocess.run(
        ["bash", "-c", script.format(root=ROOT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    units, groups, registered = done.stdout.splitlines()
    assert units == "keras.units="
    assert set(groups.split()) == {"deep", "default"}  # behind the =, at which bash breaks words
    assert "_pipeline_train" in registered


@pytest.mark.slow
def test_the_winner_as_the_projects_own_result_has_the_same_weights(clone, call, tmp_path, environment):
    root = clone(tmp_path / "project")
    small = (
        "mnist=digits",
        "keras.epochs=2",
        "keras.jit_compile=false",
        "synthetic.n_samples=300",
        "synthetic.n_train=200",
    )
    sweep = ("net=keras", "mnist=digits", "keras.epochs=2", "keras.jit_compile=false", "keras.units=8,[16,8]")
    place = Place(root, environment | {"PIPELINE_RECORDS": str(tmp_path / "records")})
    done = place.study(*sweep, "keras.learning_rate=tag(log, interval(1e-3, 1e-2))", "hydra.sweeper.n_trials=4",
                       "hydra.sweeper.n_jobs=2", "hydra.sweeper.study_name=k")  # fmt: skip
    command = re.search(r"dvc exp run .*", done.stdout)[0]
    assert "net=" not in command
    quick = [f"-S {shlex.quote(text)}" for text in small[3:]]
    call(root, "sh", "-c", f"{command} {' '.join(quick)} -S scratch.epochs=2")
    made = json.loads((root / "data/runs/keras/net.json").read_text())["weights_sha256"]
    outcomes = place.outcomes("k").values()
    best = min(outcomes, key=lambda outcome: outcome["value"])
    assert made == best["weights_sha256"]
    shutil.rmtree(root, ignore_errors=True)  # a courier may still write there
