"""The parts of a study: search space, options, storage, claims, pruning, signature, leaderboard."""

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tracked import CODE, DATA_MD5
from tracked import rows as rows_of_data

from pipeline import lineage, tracking, train, train_scratch, trained
from pipeline.errors import DataError, Pruned, SettingsError, SweepError
from pipeline.lineage import inputs_of
from pipeline.study import board, move, options, report, signature, slots, space, storage, sweeper, trial, worker
from pipeline.study.board import Goal
from pipeline.study.composer import Composer
from pipeline.study.pruning import SlotPruner
from pipeline.study.space import Param
from pipeline.study.trial import COMPLETE, FAILED, PRUNED, Outcome, Row
from pipeline.study.worker import REPORTS, Watch
from pipeline.tracking.models import has_parts
from pipeline.tracking.records import find_record

ROOT = Path(__file__).resolve().parents[1]
SAMPLER = {"name": "tpe", "seed": 0, "startup_trials": 4}
PRUNER = {"name": "none", "startup_trials": 5, "warmup_epochs": 1, "percentile": 25, "reduction_factor": 3}
GIVEN = {
    "sampler": SAMPLER,
    "pruner": PRUNER,
    "direction": None,
    "n_trials": 20,
    "n_jobs": 1,
    "cluster": None,
    "cluster_address": "auto",
    "study_name": None,
    "storage": None,
    "max_worker_memory_mb": None,
    "max_failure_rate": 1,
    "keep_models": 1,
}
MACHINE = lineage.machine()
RATE = "scratch.learning_rate=tag(log, interval(1e-3, 1))"

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder of the test's own, in which studies/ and multirun/ are made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def composer():
    """Return Hydra's composing of the project's conf/, as a sweep has it."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["hydra.job.name=train"], RunMode.MULTIRUN)
        yield Composer(loader, master)


def read(composer, *overrides):
    return space.read(composer.parsed(overrides))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("keras.l2=interval(0, 0.5)", {"low": 0.0, "high": 0.5}),
        ("keras.dropout=interval(0, 0.5)", {"low": 0.0, "high": 0.5}),
        ("keras.learning_rate=tag(log, interval(1e-4, 1e-1))", {"low": 1e-4, "high": 0.1, "log": True}),
        ("keras.units=interval(32, 512)", {"low": 32, "high": 512}),
        ("keras.units=int(interval(32, 512))", {"low": 32, "high": 512}),
        ("keras.units=tag(log, interval(32, 512))", {"low": 32, "high": 512, "log": True}),
        ("keras.batch_size=range(16, 64, 16)", {"low": 16, "high": 48, "step": 16}),
        ("keras.batch_size=range(3)", {"low": 0, "high": 2, "step": 1}),
        ("keras.units=choice(64, [256, 128])", {"choices": ("64", "[256,128]")}),
        ("keras.learning_rate=1e-3,3e-4", {"choices": ("0.001", "0.0003")}),
        ("net=scratch,keras", {"choices": ("scratch", "keras")}),
        ("keras=default,deep", {"choices": ("default", "deep")}),
        ("keras.early_stopping=null,3", {"choices": ("null", "3")}),
    ],
)
def test_hydras_grammar_gives_the_space(composer, override, expected):
    fixed, (param,) = read(composer, "seed=1", override)
    assert fixed == ["seed=1"]
    assert param == Param(override.split("=")[0], override.partition("=")[2], **expected)
    assert type(param.low) is type(expected.get("low", 0))
    param.distribution()


def test_the_command_line_wins_over_conf(composer):
    fixed, (param,) = read(
        composer, "keras.units=choice(1,2)", "keras.l2=0.1", "keras.units=choice(3,4)", "keras.l2=0.2"
    )
    assert param.choices == ("3", "4")
    assert fixed == ["keras.l2=0.2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("keras.l2=interval(1, 1)", "low < high must hold in an interval, but got 1 and 1"),
        ("keras.l2=interval(2, 1)", "low < high must hold in an interval, but got 2 and 1"),
        ("keras.l2=tag(log, interval(0, 1))", "low > 0 must hold where an interval is tagged log, but got 0"),
        ("keras.l2=tag(lin, interval(0, 1))", "the tag is log, but got lin"),
        ("keras.units=interval(1.5, 3)", "whole numbers are needed, as keras.units is one"),
        ("scratch.n_hidden=interval(1, inf)", "finite ends are needed in an interval, but got 1 and inf"),
        ("keras.l2=interval(nan, 1)", "finite ends are needed in an interval, but got nan and 1"),
        ("keras.units=range(3, 3)", "this range is empty"),
        ("keras.units=range(2, 4, 0)", "finite numbers and a step other than 0 are needed in a range"),
        ("keras.l2=range(0.1, 4, 0)", "finite numbers and a step other than 0 are needed in a range"),
        ("keras.l2=range(0, inf)", "finite numbers and a step other than 0 are needed in a range"),
        ("keras.units=range(1, 10000000000)", "at most 100,000 numbers are needed in a range"),
        ("keras.l2=range(-1e308, 1e308, 0.1)", "at most 100,000 numbers are needed in a range"),
        ("keras.units=choice(3, 3)", "one is given twice"),
        ("keras.units=3", "a parameter that varies is needed"),
    ],
)
def test_a_space_that_is_none_is_refused(composer, override, message):
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        read(composer, override)


def test_a_grid_has_every_combination_and_no_interval(composer):
    _, params = read(composer, "keras.units=1,2", "keras.batch_size=range(10, 40, 10)")
    assert space.grid(params) == [("1", 10), ("1", 20), ("1", 30), ("2", 10), ("2", 20), ("2", 30)]
    _, params = read(composer, "keras.l2=interval(0, 1)")
    with pytest.raises(SettingsError, match="needs values that can be counted"):
        space.grid(params)
    _, params = read(composer, "keras.units=interval(1, 10000000000)")
    with pytest.raises(SettingsError, match="a grid needs at most 100,000 trials, but got 10,000,000,000"):
        space.grid(params)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_trials": 0}, r"hydra.sweeper.n_trials: a whole number ≥ 1 is needed, but got 0"),
        ({"n_jobs": 0}, "hydra.sweeper.n_jobs: a whole number ≥ 1"),
        ({"max_failure_rate": 1.5}, r"max_failure_rate: a number in \[0, 1\]"),
        ({"direction": "up"}, "direction: one of minimize, maximize, or null is needed, but got 'up'"),
        ({"study_name": "../x"}, "study_name: letters, digits"),
        ({"study_name": ".."}, "study_name: letters, digits"),
        (
            {"sampler": SAMPLER | {"name": "gp"}},
            "sampler.name: one of tpe, random, grid, cmaes is needed, but got 'gp'",
        ),
        ({"pruner": PRUNER | {"name": "best"}}, "pruner.name: one of none, median"),
        *(
            ({"pruner": PRUNER | {"percentile": value}}, r"pruner.percentile: a number in \(0, 100\)")
            for value in (0, 100, "abc", None, True)
        ),
        ({"max_failure_rate": True}, r"max_failure_rate: a number in \[0, 1\]"),
        ({"max_failure_rate": None}, r"max_failure_rate: a number in \[0, 1\]"),
        ({"cluster": "slurm"}, "cluster: one of ray, or null is needed, but got 'slurm'"),
        ({"cluster_address": "head"}, r"cluster_address: auto or a host and its port \(host:6379\) is needed"),
        ({"cluster": "ray"}, r"storage: a database that every node reaches \(postgresql://…\) .* but got null"),
        (
            {"cluster": "ray", "storage": "sqlite:///x.db"},
            "storage: a database that every .* but got 'sqlite:///x.db'",
        ),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(changed, message):
    with pytest.raises(SettingsError, match=message):
        options.read(GIVEN | changed)


def test_conf_holds_the_keys_that_are_read(composer):
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    master = composer.loader.load_configuration("config", ["hydra/sweeper=study"], RunMode.MULTIRUN)
    given = OmegaConf.to_container(master.hydra.sweeper)
    assert {key for key in given if key not in ("_target_", "params")} == GIVEN.keys()
    options.read({key: given[key] for key in GIVEN})


@pytest.mark.parametrize("name", ["none", "median", "percentile", "successive_halving", "hyperband"])
def test_each_pruner_is_made(name):
    made = options.pruner(options.read(GIVEN | {"pruner": PRUNER | {"name": name}}).pruner, 20)
    assert name.replace("_", "").replace("none", "nop") in type(made).__name__.lower()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["keras.learning_rat=interval(0.1, 1)"], "keras.learning_rat"),
        (["keras.learning_rate=interval(0, 1)"], "keras.learning_rate: a finite number > 0 is needed, but got 0"),
        (["keras.units=64,0"], "keras.units: a whole number ≥ 1, or a list of them is needed, but got 0"),
        (["net=scratch", "keras.units=64,32"], "net=scratch on synthetic reads nothing of keras"),
        (["net=scratch", "mnist=digits", RATE], "mnist=digits: an override that the run reads is needed"),
        (["net=scratch", "keras.units=64", RATE], "keras.units=64: an override that the run reads is needed"),
        (["preprocess.validation_fraction=0.1,0"], "objective: loss or accuracy is needed"),
        (["keras=default,shallow"], "shallow"),
        (["objective=f1", RATE, "net=scratch"], "objective: one of loss"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(composer, overrides, message):
    from hydra.errors import HydraException

    with pytest.raises((SettingsError, HydraException)) as caught:
        sweeper.search_of(composer, GIVEN, overrides)
    assert message in str(caught.value)


def test_a_study_is_named_after_what_varies(composer):
    search = sweeper.search_of(composer, GIVEN, ["net=scratch", RATE, "scratch.n_hidden=2,3"])
    assert search.name == "scratch-synthetic-learning_rate-n_hidden"
    assert search.folder == Path("multirun/scratch-synthetic-learning_rate-n_hidden")
    assert search.direction == "minimize"
    assert sweeper.search_of(composer, GIVEN, ["objective=val_accuracy", "keras.units=2,3"]).direction == "maximize"


def test_half_a_line_is_cut_off_before_the_next_write(here):
    study = storage.open_study(None, "s", "minimize")
    study.set_user_attr("a", 1)
    journal = here / "studies/s.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":2,"worker')
    study.set_user_attr("b", 2)
    assert storage.open_study(None, "s", "minimize").user_attrs == {"a": 1, "b": 2}
    assert journal.read_bytes().startswith(whole + b"{")


def test_a_journal_cut_anywhere_can_be_read_and_written(here):
    study = storage.open_study(None, "s", "minimize")
    for number in range(3):
        study.tell(study.ask(), number)
    whole = (here / "studies/s.journal").read_bytes()
    for end in random.Random(0).sample(range(len(whole)), 20):
        (here / "studies/s.journal").write_bytes(whole[:end])
        storage.open_study(None, "s", "minimize").set_user_attr("x", end)
        assert storage.open_study(None, "s", "minimize").user_attrs["x"] == end


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://ann:secret@127.0.0.1:1/x", "cannot be opened"),
        ("nosuch://x", "cannot be opened"),
        ("/proc/none/s.journal", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_password(here, address, message):
    with pytest.raises(SettingsError, match=message) as caught:
        storage.open_study(address, "s", "minimize")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


PARAMS = (Param("a", "", low=0.0, high=1.0), Param("b", "", low=1, high=9), Param("c", "", choices=("x", "y")))


def plan(n_slots=12, seed=0, name="tpe") -> slots.Plan:
    return slots.Plan(PARAMS, options.Sampler(name, seed, 4), (), n_slots)


def value_of(claimed) -> float:
    params = claimed.params
    return (params["a"] - 0.3) ** 2 + params["b"] + (params["c"] == "x")


def finish(study, claimed) -> None:
    study.tell(claimed, value_of(claimed))


def search_all(study, planned, stop=None) -> None:
    while (claimed := slots.claim(study, planned)) is not None and claimed.user_attrs["slot"] != stop:
        finish(study, claimed)
    if claimed is not None:
        slots.lose(study, claimed._trial_id, "interrupted")


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_seed_gives_the_same_trials_also_across_interruptions(here, name):
    whole, parts, other = (storage.open_study(None, study, "minimize") for study in ("whole", "parts", "other"))
    search_all(whole, plan(name=name))
    for stop in (2, 7, None):
        search_all(storage.open_study(None, "parts", "minimize"), plan(name=name), stop)
    search_all(other, plan(seed=1, name=name))
    params = [[held.params for held in slots.holders(study)] for study in (whole, parts, other)]
    assert params[0] == params[1] != params[2]


def test_cmaes_goes_by_what_it_has_seen_and_a_seed_gives_the_same_trials(here):
    study, again = (storage.open_study(None, name, "minimize") for name in ("s", "again"))
    for one in (study, again):
        search_all(one, plan(16, name="cmaes"))
    assert [held.params for held in study.trials] == [held.params for held in again.trials]
    assert [any(name.startswith("cma:") for name in held.system_attrs) for held in study.trials].count(True) >= 8


@pytest.mark.parametrize("address", [None, pytest.param("sqlite:///study.db", marks=pytest.mark.slow)])
def test_several_processes_never_claim_a_slot_twice_nor_one_too_many(here, address):
    storage.open_study(address, "s", "minimize")
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests'];"
        "from test_study import *; study = storage.open_study(eval(sys.argv[2]), 's', 'minimize');"
        "search_all(study, plan(24, name='random'))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(ROOT), repr(address)]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    study = storage.open_study(address, "s", "minimize")
    held = [held for held in study.get_trials() if "lost" not in held.user_attrs]
    assert Counter(held.user_attrs["slot"] for held in held) == dict.fromkeys(range(24), 1)
    assert all(trial.state.is_finished() for trial in study.get_trials())


def test_what_a_dead_worker_had_is_tried_again_under_its_number(here):
    script = (
        "import os, signal, sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests'];"
        "from test_study import *; study = storage.open_study(None, 's', 'minimize');"
        "finish(study, slots.claim(study, plan())); slots.claim(study, plan()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(ROOT)], check=False).returncode == -9
    study = storage.open_study(None, "s", "minimize")
    lost = study.trials[1]
    assert lost.user_attrs["slot"] == 1
    again = slots.claim(study, plan())
    assert (again.user_attrs["slot"], again.params) == (1, lost.params)
    assert study.trials[1].user_attrs["lost"] == "its worker died"
    assert slots.claim(study, plan()).user_attrs["slot"] == 2  # this process lives: its claim stands


def test_a_worker_elsewhere_is_dead_once_it_is_silent(here, monkeypatch):
    study = storage.open_study(None, "s", "minimize")
    with monkeypatch.context() as patch:
        patch.setattr(slots, "_host", lambda: "elsewhere")
        claimed = slots.claim(study, plan())
    slots.bury(study)
    assert not study.trials[0].state.is_finished()
    claimed.set_user_attr(slots.SEEN, claimed.user_attrs[slots.SEEN] - slots.SILENT_SECONDS)
    slots.bury(study)
    assert study.trials[0].user_attrs["lost"] == "its worker died"


def test_of_a_cluster_the_worker_that_is_known_to_be_dead_gives_its_trial_back(here, monkeypatch):
    study = storage.open_study(None, "s", "minimize")
    for name in ("ray a", "ray b"):
        monkeypatch.setenv(slots.ON_NODE, name)
        slots.claim(study, plan())
    slots.bury_worker(study, "ray b")
    assert [trial.user_attrs.get("lost") for trial in study.trials] == [None, "its node died"]
    again = slots.claim(study, plan())
    assert (again.user_attrs["slot"], again.params) == (1, study.trials[1].params)
    study_id = "0" * 32
    assert slots.lost_records(study, study_id) == {slots.record_id_of(study_id, 1)}
    assert len({slots.record_id_of(study_id, number) for number in range(3)}) == 3


def test_whoever_was_taken_for_dead_changes_nothing_any_more(here, composer):
    """Its node was out of reach, and another has trained the trial since."""
    search = sweeper.search_of(composer, GIVEN, ["net=scratch", "scratch.n_hidden=2,3"])
    study = storage.open_study(None, "s", "minimize")
    study.set_user_attr("id", "0" * 32)
    claimed = slots.claim(study, search.plan)
    mark = {"study": "0" * 32, "params": slots.values_of(claimed, search.params)}
    trial.save(Outcome(FAILED, ("net=scratch",), error="late"), search.folder / "0", **mark)
    slots.lose(study, claimed._trial_id, "its node died")
    worker._conduct(search, study, claimed)
    assert "outcome" not in study.trials[0].user_attrs


def test_a_process_that_is_dead_but_not_reaped_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert slots._started(process.pid) == ""
    process.wait()
    assert slots._started(os.getpid()) != ""


@pytest.mark.parametrize(("n_epochs", "n_reports"), [(1, 1), (30, 30), (31, 15), (500, 29)])
def test_a_trial_reports_at_most_so_often(here, n_epochs, n_reports):
    study = storage.open_study(None, "s", "minimize")
    claimed = slots.claim(study, plan())
    watch = Watch(claimed, "val_loss", is_on=True)
    watch.n_epochs = n_epochs
    for epoch in range(n_epochs):
        watch.on_epoch_end(epoch, {"val_loss": 1.0})
    assert len(study.trials[0].intermediate_values) == n_reports <= REPORTS


def test_a_trial_that_is_worse_than_the_median_is_pruned(here):
    from optuna.trial import TrialState

    given = options.read(GIVEN | {"pruner": PRUNER | {"name": "median", "startup_trials": 2}})
    study = storage.open_study(None, "s", "minimize")
    study.pruner = options.pruner(given.pruner, 4)
    ends = []
    for value in (1.0, 1.0, 2.0, 0.5):
        claimed = slots.claim(study, plan())
        watch = Watch(claimed, "val_loss", is_on=True)
        watch.n_epochs = 4
        try:
            for epoch in range(4):
                watch.on_epoch_end(epoch, {"val_loss": value})
            ends.append(4)
            study.tell(claimed, value)
        except Pruned:
            ends.append(epoch + 1)
            study.tell(claimed, state=TrialState.PRUNED)
    assert ends == [4, 4, 2, 4]


def test_a_study_goes_on_with_the_same_alone(here, composer):
    study = storage.open_study(None, "s", "minimize")
    given = ["net=scratch", RATE]

    def settle(overrides, options_given=GIVEN):
        search = sweeper.search_of(composer, options_given, overrides)
        return signature.settle(study, signature.of(search.options, search.params, search.settings), search.folder)

    identity = settle(given)
    study.tell(study.ask(), 1.0)
    search = sweeper.search_of(composer, GIVEN, given)
    unread = replace(search.settings, keras=replace(search.settings.keras, units=(3,)))  # by an edit of conf/keras/
    wanted = signature.of(search.options, search.params, unread)
    assert signature.settle(study, wanted, search.folder) == identity
    assert settle(given, GIVEN | {"n_trials": 99, "n_jobs": 3, "pruner": PRUNER | {"name": "median"}}) == identity
    for changed, told in (
        ([*given, "scratch.epochs=7"], "scratch.epochs: 500 → 7"),
        ([*given, "objective=val_accuracy"], "objective: val_loss → val_accuracy"),
        (["net=scratch", RATE.replace("1)", "2)")], "interval(1e-3, 1)) → tag(log, interval(1e-3, 2))"),
        (["net=scratch", RATE, "scratch.n_hidden=2,3"], "scratch.n_hidden: 10 → 2,3"),
    ):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            settle(changed)
        assert told in str(caught.value)
        assert "another hydra.sweeper.study_name" in str(caught.value)
    signature.settle_md5(study, "synthetic", "a")
    signature.settle_md5(study, "synthetic", "a")
    with pytest.raises(SettingsError, match="begun with other data: synthetic: a → b"):
        signature.settle_md5(study, "synthetic", "b")


def test_a_folder_of_an_earlier_study_is_not_written_into(here):
    (here / "multirun/s/0").mkdir(parents=True)
    study = storage.open_study(None, "s", "minimize")
    with pytest.raises(SettingsError, match="holds the trials of an earlier study"):
        signature.settle(study, {"direction": "minimize"}, Path("multirun/s"))


def test_a_machine_with_other_processors_has_the_same_code_but_not_with_other_libraries(monkeypatch):
    def checkout_of(**changed):
        monkeypatch.setattr(lineage, "machine", lambda: MACHINE | changed)
        return signature.checkout()

    here = checkout_of()
    assert checkout_of(cpu="another model", cpus="96") == here
    assert checkout_of(numpy="0.1") != here


def test_another_projects_study_is_refused(here):
    study = storage.open_study(None, "s", "minimize")
    study.tell(study.ask(), 1.0)
    with pytest.raises(SettingsError, match="is not a study of this project"):
        signature.settle(study, {"direction": "minimize"}, Path("multirun/s"))


def row(number: int, state: str, value: float | None = None, **more) -> Row:
    given = ("net=keras", "objective=loss", f"keras.units=[{number},2]", "+hydra.x=1", "tracking.uri=x", "seed=3")
    return Row(number, {"keras.units": str(number)}, Outcome(state, given, value, **more))


ROWS = [row(0, FAILED, error="E: no"), row(1, COMPLETE, 2.0), row(2, PRUNED, 0.1), row(3, COMPLETE, 1.0)]


def test_the_leaderboard_has_the_best_first_and_the_failed_last():
    assert [row.number for row in board.ranked(ROWS, "minimize")] == [3, 1, 2, 0]
    assert [row.number for row in board.ranked(ROWS, "maximize")] == [1, 3, 2, 0]
    assert board.best(ROWS[:1], "minimize") is None
    goal = Goal("loss", "minimize", 4)
    assert board.columns(board.keys_of(ROWS), goal) == ["trial", "loss", "keras.units", "time", "state"]
    assert board.cells(ROWS[0], board.keys_of(ROWS)) == ["0", "-", "0", "0.0s", "failed"]
    assert board.errors(ROWS) == ["trial 0: E: no"]


def test_the_winners_command_has_what_its_settings_depend_on_alone():
    assert board.command(ROWS[3]) == "dvc exp run -S 'keras.units=[3,2]' -S seed=3"


def test_a_winner_that_no_stage_can_train_is_told_as_a_training(capsys):
    given = ("experiment=history", "keras.units=3", "net=keras", "objective=loss")
    trained = Row(0, {}, Outcome(COMPLETE, given, 1.0, net="keras", dataset="mnist", warm_start=True))
    board.show_end([trained], Goal("loss", "minimize", 1), None)
    told = "python -m pipeline.train hydra.mode=RUN net=keras experiment=history keras.units=3\n"
    assert f"the winner once more (no stage can start from earlier weights): {told}" in capsys.readouterr().out


@pytest.mark.parametrize(("experiment", "warm"), [("history", True), ("quick", False)])
def test_an_outcome_says_whether_a_stage_could_have_trained_it(composer, monkeypatch, tmp_path, experiment, warm):
    monkeypatch.setattr("pipeline.train.run", lambda *_: (_ for _ in ()).throw(DataError("no weights")))
    composed = composer.config([f"experiment={experiment}"])
    part = train.Part(None, {}, lambda epoch, metrics: None)
    assert trial.train(composed, tmp_path, [], part).warm_start is warm


def test_failures_end_a_sweep_badly_if_too_many_or_all():
    board.check_failures(ROWS, 0.25)
    with pytest.raises(
        SweepError, match=r"1 of 4 trials failed, where max_failure_rate is 0\.2; the first, 0: E: no"
    ):
        board.check_failures(ROWS, 0.2)
    with pytest.raises(SweepError, match="the one trial failed; the first, 0: E: no"):
        board.check_failures(ROWS[:1], 1)


def test_an_outcome_is_kept_as_it_was(tmp_path):
    outcome = replace(ROWS[1].outcome, seconds=1.5, weights_sha256="a" * 64)
    trial.save(outcome, tmp_path / "0", study="x")
    kept = trial.load(tmp_path / "0")
    assert kept["study"] == "x"
    assert trial.outcome_from(json.loads(json.dumps(kept))) == outcome
    assert trial.load(tmp_path / "1") is None


@pytest.mark.parametrize("preset", ["sweep_keras", "sweep_scratch"])
def test_a_preset_is_a_study(composer, preset):
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    master = composer.loader.load_configuration("config", [f"experiment={preset}"], RunMode.MULTIRUN)
    given = OmegaConf.to_container(master.hydra.sweeper)
    params = [f"{key}={value}" for key, value in given.pop("params").items()]
    del given["_target_"]
    search = sweeper.search_of(Composer(composer.loader, master), given, [*params, f"experiment={preset}"])
    assert search.name == preset
    assert len(search.params) >= 2


def test_a_file_that_is_no_journal_stays_as_it_is(here):
    (here / "my.json").write_text('{"a": 1}')
    with pytest.raises(SettingsError, match=r"storage: my\.json is not a journal of studies; name another file"):
        storage.open_study("my.json", "s", "minimize")
    assert (here / "my.json").read_text() == '{"a": 1}'


def test_another_programs_database_gets_no_tables(here):
    with contextlib.closing(sqlite3.connect(here / "other.db")) as connection:
        connection.execute("CREATE TABLE runs (a)")
    with pytest.raises(SettingsError, match=r"holds another program's tables \(runs, "):
        storage.open_study("sqlite:///other.db", "s", "minimize")
    with contextlib.closing(sqlite3.connect(here / "other.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]


def begun(n_trials: int):
    """Return a study of this project in its own file, with so many trials."""
    study = storage.open_study(None, "s", "minimize")
    signature.settle(study, {"direction": "minimize", "a": "0..1"}, Path("multirun/s"))
    search_all(study, plan(n_trials))
    return study


def test_a_study_is_carried_to_another_storage_whole(here):
    old = begun(5)
    slots.lose(old, slots.claim(old, plan(6))._trial_id, "interrupted")
    assert move.run("s", "studies/s.journal", "sqlite:///there.db") == 5
    there = storage.open_study("sqlite:///there.db", "s", "minimize")
    assert there.user_attrs == {name: value for name, value in old.user_attrs.items() if name != signature.MOVED}
    kept = ("number", "state", "params", "distributions", "user_attrs", "value", "datetime_complete")
    assert [[getattr(one, name) for name in kept] for one in there.trials] == [
        [getattr(one, name) for name in kept] for one in old.trials
    ]
    assert move.run("s", "studies/s.journal", "sqlite:///there.db") == 5
    assert len(there.trials) == len(old.trials)
    search_all(there, plan(8))
    search_all(old, plan(8))
    assert [held.params for held in slots.holders(there)] == [held.params for held in slots.holders(old)]
    wanted = {"direction": "minimize", "a": "0..1"}
    assert signature.settle(there, wanted, Path("multirun/s")) == old.user_attrs["id"]
    with pytest.raises(SettingsError, match=r"study s has been carried to sqlite:///there.db, which is to be"):
        signature.settle(old, wanted, Path("multirun/s"))


def test_a_copy_that_was_killed_half_way_is_made_anew(here, monkeypatch):
    old = begun(5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("optuna.Study.add_trials", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        move.run("s", "studies/s.journal", "sqlite:///there.db")
    half = storage.open_study("sqlite:///there.db", "s", "minimize")
    assert "signature" not in half.user_attrs
    half.add_trial(old.trials[0])
    assert move.run("s", "studies/s.journal", "sqlite:///there.db") == 5
    assert len(storage.open_study("sqlite:///there.db", "s", "minimize").trials) == 5


def test_a_study_that_cannot_be_carried_stays(here):
    with pytest.raises(SettingsError, match=r"--from: studies/s.journal: no such file"):
        move.run("s", "studies/s.journal", "sqlite:///there.db")
    old = begun(3)
    with pytest.raises(DataError, match=r"other: studies/s.journal has no such study of this project"):
        move.run("other", "studies/s.journal", "sqlite:///there.db")
    claimed = slots.claim(old, plan(4))
    with pytest.raises(DataError, match=r"s: it is being worked on"):
        move.run("s", "studies/s.journal", "sqlite:///there.db")
    slots.lose(old, claimed._trial_id, "interrupted")
    other = storage.open_study("sqlite:///there.db", "s", "minimize")
    search_all(other, plan(1))
    with pytest.raises(DataError, match=r"s: sqlite:///there.db has another study of that name"):
        move.run("s", "studies/s.journal", "sqlite:///there.db")
    assert signature.MOVED not in old.user_attrs
    assert len(other.trials) == 1


def test_a_file_in_a_folders_place_is_named(here):
    (here / "studies").touch()
    with pytest.raises(SettingsError, match="studies: a folder is needed"), storage.alone("s"):
        pass


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
def test_a_study_of_another_direction_is_refused(here, directions):
    import optuna

    storage.open_study(None, "s", "minimize")
    made = storage._storage("studies/s.journal")
    study = optuna.create_study(storage=made, study_name="o", directions=directions)
    with pytest.raises(SettingsError, match=f"to {' and '.join(directions)}, but minimize is asked for"):
        signature.settle(study, {"direction": "minimize"}, Path("multirun/o"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["net=scratch", "objective=val_loss,loss"], "objective: one value is needed"),
        (["net=scratch", "tracking.experiment=a,b"], "tracking.experiment: one value is needed"),
        (["net=scratch", "experiment=quick,lesson"], "the same one is needed in all trials"),
        (["keras.units=tag(log, choice(1, 2))"], "log goes with interval"),
    ],
)
def test_trials_that_would_not_compare_are_refused(composer, overrides, message):
    with pytest.raises(SettingsError, match=message):
        sweeper.search_of(composer, GIVEN, overrides)


def test_an_unknown_key_of_a_study_is_named():
    with pytest.raises(SettingsError, match=r"hydra\.sweeper\.foo: unknown key \(known: params, "):
        options.read(GIVEN | {"foo": 1})
    with pytest.raises(SettingsError, match=r"hydra\.callbacks\.grid\.max_failure_rate: a number in"):
        options.check_grid(2, 1)


def pruned_at(study, pruner, stops) -> list[int]:
    """Return after how many epochs each slot ends; the trials of `stops` are lost in their second epoch first."""
    from optuna.trial import TrialState

    ends = []
    while (claimed := slots.claim(study, plan(n_slots=9, name="random"))) is not None:
        study.pruner = pruner
        slot = claimed.user_attrs["slot"]
        watch = Watch(claimed, "val_loss", is_on=True)
        watch.n_epochs = 9
        try:
            for epoch in range(9):
                if slot in stops and epoch == 1:
                    break
                watch.on_epoch_end(epoch, {"val_loss": claimed.params["a"]})
            if slot in stops:
                stops.remove(slot)
                slots.lose(study, claimed._trial_id, "interrupted")
                continue
            study.tell(claimed, 1.0)
            ends.append(9)
        except Pruned:
            ends.append(epoch + 1)
            study.tell(claimed, state=TrialState.PRUNED)
    return ends


@pytest.mark.parametrize("name", ["median", "successive_halving", "hyperband"])
def test_an_interrupted_study_is_pruned_as_a_whole_one(here, name):
    def made():
        given = PRUNER | {"name": name, "startup_trials": 2}
        return SlotPruner(options.pruner(options.read(GIVEN | {"pruner": given}).pruner, 9))

    ends = []
    for address, stops in (("a.journal", []), ("b.journal", [0, 3, 4])):
        study = storage.open_study(address, "s", "minimize")
        ends.append(pruned_at(study, made(), stops))
    assert ends[0] == ends[1]
    assert min(ends[0]) < 9


def test_progress_counts_line_by_line_and_leaves_out_what_was_there(caplog):
    caplog.set_level("INFO")
    with board.progress("s", Goal("loss", "minimize", 4)) as tell:
        tell(ROWS[:1])
        tell(ROWS)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[0] for line in lines] == ["trial 1 (2/4)", "trial 2 (3/4)", "trial 3 (4/4)"]
    assert "best 2.0000 (trial 1)" in lines[0]
    assert "best 1.0000 (trial 3)" in lines[2]


def test_a_parameter_that_a_trial_does_not_read_is_neither_shown_nor_commanded(capsys):
    given = ("net=scratch", "scratch.n_hidden=3", "keras.units=5")
    params = {"net": "scratch", "scratch.n_hidden": "3", "keras.units": "5"}
    trained = Row(0, params, Outcome(COMPLETE, given, 1.0, net="scratch", dataset="synthetic"))
    assert board.cells(trained, board.keys_of([trained])) == ["0", "1.0000", "scratch", "3", "-", "0.0s", "done"]
    board.show_end([trained], Goal("loss", "minimize", 1), None)
    told = capsys.readouterr().out
    assert "the winner (net=scratch) as the project's own result: dvc exp run -S scratch.n_hidden=3\n" in told
    assert not any(line.endswith(" ") for line in told.splitlines())


@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.usefixtures("own_tracking")
def test_a_model_that_is_wanted_is_made_or_it_is_told(composer, new_store, here, caplog, reused):
    """Of the best trial it can be made, of the second not: a smaller keep_models has removed its parts."""
    settings = trial.settings_of(composer.config(["net=scratch", f"tracking.uri={new_store(here)}"]))
    data = rows_of_data()
    trials = []
    for number in range(3):
        with tracking.start_run(settings, "scratch", inputs_of("mnist", data, DATA_MD5), code=CODE) as run:
            result = train_scratch.run(replace(settings.scratch, epochs=1), data, 0, run.on_epoch_end)
            trained.save(result, here / "net")
            run.log_trained(result, here / "net", settings, example=data["X_test"][:2], with_model=False)
        trials.append(Row(number, {}, Outcome(COMPLETE, (), float(number), record_id=run.record_id, reused=reused)))
    best, second, third = (find_record(row.outcome.record_id) for row in trials)
    tracking.drop_model_of(second.id)
    goal = Goal("loss", "minimize", 3)
    report._keep_models(report.Sweep(settings, "p" * 32, "k", {}, [], goal, 2), trials)
    assert [record.state.model for record in (best, second, third)] == [True, False, False]
    assert has_parts(third) is reused
    (told,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.study.report"]
    assert told.startswith("k: keep_models=2, but what a model is made from was removed of trial 1, which was not ")
    assert ("tracking.reuse=false" in told) is reused


def test_a_grid_reuses_nothing_whose_weights_were_replaced(here, composer):
    import numpy as np

    from pipeline import trained
    from pipeline.study import desk

    settings = trial.settings_of(composer.config(["net=scratch"]))
    net = trained.Trained(
        "scratch", "synthetic", ("tanh", "sigmoid"), {"W1": np.ones(2)}, {"loss": [1.0], "val_loss": [0.5]}, ""
    )
    trained.save(net, here / "0/net")
    kept = Outcome(COMPLETE, (), 0.5, weights_sha256=net.weights_sha256)
    trial.save(kept, desk.RESULTS / "key", place=str(here / "0"), store=desk.store_of(settings))
    own = desk.Own(here, None, ())
    assert own.reused(settings, "key", []).value == 0.5
    trained.save(replace(net, weights={"W1": np.zeros(2)}), here / "0/net")
    assert own.reused(settings, "key", []) is None


def test_the_desk_has_what_a_job_elsewhere_has_trained_and_knows_it_again(here, composer):
    from pipeline.study import desk

    settings = trial.settings_of(composer.config(["net=scratch"]))
    outcome = Outcome(COMPLETE, ("net=scratch", "+scratch.n_hidden=4"), 0.5, record_id="r", weights_sha256="w")
    own = desk.Own(Path("sweep"), "id", ("scratch.n_hidden",))
    assert own.ended("0") is None
    net = {"net.json": b"{}", "weights.npz": b"bytes"}
    (row,) = own.keep(desk.Done(0, "0", outcome, "key", desk.store_of(settings), net), Path("/elsewhere"))
    assert (row.number, row.params, row.outcome) == (0, {"scratch.n_hidden": "4"}, outcome)
    assert {path.name: path.read_bytes() for path in (here / "sweep/0/net").iterdir()} == net
    assert own.ended("0") == outcome  # its node may die before it is told so, and another do the job again
    assert desk.Own(Path("sweep"), "another", ()).ended("0") is None
    assert json.loads((here / desk.RESULTS / "key/outcome.json").read_text())["place"] == str(here / "sweep/0")


def test_a_study_on_a_journal_pays_for_no_database(call, tmp_path):
    check = "import sys; from pipeline.study import storage; storage.failures(); print('sqlalchemy' in sys.modules)"
    done = call(tmp_path, sys.executable, "-c", check, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "False\n"
